"""The progress of a training, shown on stderr."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time


def is_terminal(stream) -> bool:
    """Whether a stream is a terminal. A closed stream or None is not."""
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


class Progress:
    """Progress bar with loss, speed and time left in a terminal or notebook, and a line for each evaluation everywhere.

    If stderr cannot be written, because it is closed or its reader has left, nothing more is shown and training
    continues.

    Parameters
    ----------
    shown : bool
        Whether anything is shown.
    total : int
        Number of steps of the whole run.
    done : int
        Number of steps that were done before, by the run that is resumed.
    unit : str
        What a step is.
    """

    def __init__(self, shown: bool, total: int, done: int, unit: str):
        self._shown, self._unit = shown, unit
        self._total, self._done, self._resumed_at = total, done, done
        self._start = time.monotonic()
        self._loss = None
        self._bar = None

    def __enter__(self):
        if self._shown and (is_terminal(sys.stderr) or _in_notebook()):
            with self._dropping():
                self._bar = _tqdm()(
                    total=self._total,
                    initial=self._done,
                    unit=f" {self._unit}",
                    unit_scale=True,
                    dynamic_ncols=True,
                    smoothing=0.1,
                    bar_format="{percentage:3.0f}%|{bar}| {rate_fmt}, {remaining} left{postfix}",
                )
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            with self._dropping():
                self._bar.close()

    @contextlib.contextmanager
    def _dropping(self):
        """Show nothing more once stderr cannot be written."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: it is closed
            if self._bar is not None:
                self._bar.disable = True  # then close() writes nothing
            self._shown, self._bar = False, None

    def update(self, steps: int, loss: float | None) -> None:
        """Count the steps of an update. The loss is None if the update was skipped."""
        self._done += steps
        if self._bar is not None:
            if loss is not None:
                self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
            with self._dropping():
                if self._loss is not None:
                    self._bar.set_postfix_str(f"loss {self._loss:.3f}", refresh=False)
                self._bar.update(steps)

    def note(self, entry: dict) -> None:
        """Show a line for an evaluation, an entry of the history."""
        if not self._shown:
            return
        words = [f"epoch {entry['epoch']:g}"]
        for key, value in entry.items():
            if value is not None and key not in ("epoch", "update", "lr"):
                name = {"train_loss": "loss", "validation_loss": "validation"}.get(key, key.removeprefix("validation_"))
                words.append(f"{name} {value}" if key == "skipped" else f"{name} {value:.4f}")
        elapsed = time.monotonic() - self._start
        if self._bar is not None:
            with self._dropping():
                self._bar.write("  ".join(words), file=sys.stderr)
            return
        if self._done > self._resumed_at:
            speed = (self._done - self._resumed_at) / elapsed
            words += [f"{speed:,.0f} {self._unit}/s", f"{_clock((self._total - self._done) / speed)} left"]
        with self._dropping():
            if sys.stderr is not None:  # print(file=None) would write to standard output
                print("  ".join(words), file=sys.stderr, flush=True)


def _in_notebook():
    """Whether this process is a Jupyter kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _tqdm():
    """The class of the bar: a widget in a notebook with ipywidgets, else text."""
    if _in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
