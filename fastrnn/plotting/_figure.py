"""Figures without a display: matplotlib's Figure by itself, no pyplot and no state that others share."""

from __future__ import annotations

import io
import os
import unicodedata
from pathlib import Path

from fastrnn._files import disk

FORMATS = (".svg", ".png", ".pdf")
DPI = 150
COLOURS = ("#1f5fa8", "#c8501e", "#2d8a4e", "#8a4fa0", "#b8860b", "#5a6472", "#c23b6b", "#1b9aaa")


def checked_path(path):
    """Where a picture goes, or None: it ends with the name of a format, and its folder is there."""
    if path is None:
        return None
    path = Path(os.fspath(path))
    if path.suffix not in FORMATS:
        raise ValueError(f"path is {str(path)!r}, but a picture's name must end with {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(path.parent)!r} of the picture {path.name!r} does not exist: make it first"
        )
    return path


def new_figure(width, height, **options):
    """A Figure of a size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fastrnn.plotting needs matplotlib: pip install 'fastrnn[plot]'") from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def saved(figure, path):
    """The figure, after writing it to `path` if there is one."""
    if path is not None:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
        disk.write_output(path, lambda file: file.write_all([picture.getbuffer()]))
    return figure


def visible(text) -> str:
    """A text whose characters can all be shown: controls, line separators and lone surrogates become a dot.

    >>> visible("a\\0b\\n")
    'a·b·'
    """
    return "".join("·" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in str(text))


def label(text) -> str:
    """The same for matplotlib, for which a text between two $ would be a formula."""
    return visible(text).replace("$", r"\$")


def plain_axes(axes, x, y):
    """Name the axes, and leave out the box around them."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
