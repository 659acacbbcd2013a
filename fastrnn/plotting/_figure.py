"""Figures without a display: matplotlib's Figure by itself, without pyplot and its global state."""

from __future__ import annotations

import io
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from fastrnn._files import disk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
DPI = 150
COLOURS = ("#1f5fa8", "#c8501e", "#2d8a4e", "#8a4fa0", "#b8860b", "#5a6472", "#c23b6b", "#1b9aaa")

PathLike = str | os.PathLike[str]


def check_path(path: PathLike | None) -> Path | None:
    """Check that the name of a picture, if there is one, ends with a known format, and that its folder exists."""
    if path is None:
        return None
    path = Path(os.fspath(path))
    if path.suffix not in FORMATS:
        raise ValueError(f"path is {str(path)!r}, but a picture's name must end with {', '.join(FORMATS)}")
    check_folder(path, "picture")
    return path


def check_folder(path: Path, what: str) -> None:
    """Check that the folder of a file to write exists."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(path.parent)!r} of the {what} {path.name!r} does not exist: create it first"
        )


def new_figure(width: float, height: float, **options: object) -> Figure:
    """Make a Figure of a size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fastrnn.plotting needs matplotlib: pip install 'fastrnn[plot]'") from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def save_figure(figure: Figure, path: Path | None) -> Figure:
    """Write a figure to a file, if there is one, and return the figure."""
    if path is not None:
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
        disk.write_output(path, lambda file: file.write_all([picture.getbuffer()]))
    return figure


def printable(text: object) -> str:
    """Replace by a dot the characters that cannot be shown: controls, line separators and lone surrogates.

    Examples
    --------
    >>> printable("a\\0b\\n")
    'a·b·'
    """
    return "".join("·" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in str(text))


def label(text: object) -> str:
    """Make a text that matplotlib shows as it is: without escapes, text between two $ would be a formula."""
    return printable(text).replace("$", r"\$")


def plain_axes(axes: Axes, x: str, y: str) -> Axes:
    """Label the axes, and hide the lines at the top and on the right."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
