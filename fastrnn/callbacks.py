"""What is told of a training run while it goes on: logs as CSV, JSON lines or for TensorBoard.

A callback is any callable that takes an entry of the history (a dict: `epoch`, `update`, `lr`, `train_loss`, `validation_loss`, …);
training stops if it returns True. If it has a method `begin(history)`, that is called before any work, with what a resumed run has
behind it. If it has a method `end()`, that is called when the training has ended, however it did.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from pathlib import Path

from fastrnn._files import disk


class _File:
    """A text file with an entry in each line.

    From `begin` to `end` the file is locked: another training that would write it is refused, also in another process.

    Raises
    ------
    OSError  the file cannot be written: it is a directory, or its folder cannot be made or written to.
    ValueError  the file holds something other than such a log, which would be lost; or another training is writing it.
    """

    _file = None

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        _check_writable(self.path)
        if self.path.is_file():
            with open(self.path, "rb") as file:
                first = file.readline(65536).decode("utf-8", "replace").strip()
            if first and not self._begins_a_log(first):
                raise ValueError(
                    f"{self.path} is not a {type(self).__name__}, and writing one would overwrite it: choose another name, or remove it"
                )

    def begin(self, history: list) -> None:
        """Write what is known already, in place of what the file held."""
        self.end()
        with disk.naming(self.path):
            disk.make_folder(self.path.parent)
            self._open()
            if self._file.regular:
                os.ftruncate(self._file.descriptor, 0)
        for entry in history:
            self(entry)

    def __call__(self, entry: dict) -> None:
        """Append an entry."""
        with disk.naming(self.path):
            if self._file is None or not self._file.is_current():  # not begun, or somebody has removed the file
                self._open()
            descriptor = self._file.descriptor
            first = not self._file.regular or os.fstat(descriptor).st_size == 0
            data = memoryview(self._lines(entry, first).encode())
            while len(data):
                data = data[os.write(descriptor, data) :]

    def end(self) -> None:
        """Close the file. Another entry opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self):
        self.end()
        try:
            self._file = disk.LockedFile(self.path, wait=False, flags=os.O_APPEND)
        except BlockingIOError:
            raise ValueError(f"another training or callback is writing {self.path}: use another file") from None

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_file"}  # a copy is not open


def _check_writable(path):
    """An OSError if a file could not be written there; nothing is made."""
    if path.exists():
        wrong = errno.EISDIR if path.is_dir() else None if os.access(path, os.W_OK) else errno.EACCES
    else:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        wrong = errno.ENOTDIR if not folder.is_dir() else None if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if wrong is not None:
        raise OSError(wrong, os.strerror(wrong), str(path))


class JSONLog(_File):
    """Writes each entry as a line of JSON.

    Examples
    --------
    >>> log = JSONLog("log.jsonl")
    >>> log.begin([])
    >>> log({"epoch": 1, "train_loss": 0.5})
    >>> log.end()
    >>> log.path.read_text()
    '{"epoch": 1, "train_loss": 0.5}\\n'
    """

    @staticmethod
    def _lines(entry, first):
        return json.dumps(entry) + "\n"

    @staticmethod
    def _begins_a_log(line):
        return line.startswith('{"epoch":')


class CSVLog(_File):
    """Writes each entry as a line of a table; its columns are those of the first entry, and None is an empty field."""

    @staticmethod
    def _lines(entry, first):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(entry), lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(entry)
        return text.getvalue()

    @staticmethod
    def _begins_a_log(line):
        return line.startswith("epoch,")


class TensorBoard:
    """Writes each number of an entry as a scalar over the updates, through tensorboardX (``pip install tensorboardX``).

    Parameters
    ----------
    folder : of the event files

    Raises
    ------
    ImportError  tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError("fastrnn.callbacks.TensorBoard needs tensorboardX: pip install tensorboardX") from None
        self._writer = SummaryWriter(os.fspath(folder))

    def __call__(self, entry: dict) -> None:
        for name, value in entry.items():
            if name not in ("epoch", "update") and value is not None:
                self._writer.add_scalar(name, value, entry["update"])
        self._writer.flush()
