"""Logs of a training: CSV, JSON lines or TensorBoard.

A callback is any callable that takes an entry of the history, a dict with `epoch`, `update`, `lr`, `train_loss`,
`validation_loss` and so on. Training stops if it returns True. If it has a method `begin(history)`, that is called
before any work, with the history of a resumed run or an empty one. If it has a method `end()`, that is called when
the training has ended, however it ended.
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
    """A text file with one entry per line.

    From `begin` to `end` the file is locked: another training that would write it is refused, in any process.
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
                    f"{self.path} is not a {type(self).__name__}, and writing one would overwrite it: "
                    "choose another name, or remove it"
                )

    def begin(self, history: list) -> None:
        """Replace the content of the file by the entries of a history.

        Parameters
        ----------
        history : list of dict
            The entries so far: those of a resumed run, or none.

        Raises
        ------
        OSError
            The file cannot be written.
        ValueError
            Another training or callback is writing the file.
        """
        self.end()
        with disk.naming(self.path):
            disk.make_folder(self.path.parent)
            self._open()
            if self._file.regular:
                os.ftruncate(self._file.descriptor, 0)
        for entry in history:
            self(entry)

    def __call__(self, entry: dict) -> None:
        """Append an entry.

        Parameters
        ----------
        entry : dict
            An entry of the history.
        """
        with disk.naming(self.path):
            if self._file is None or not self._file.is_current():  # not begun, or the file was removed
                self._open()
            descriptor = self._file.descriptor
            first = not self._file.regular or os.fstat(descriptor).st_size == 0
            data = memoryview(self._lines(entry, first).encode())
            while len(data):
                data = data[os.write(descriptor, data) :]

    def end(self) -> None:
        """Close the file. A later entry opens it again."""
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
    """Raise an OSError if a file cannot be written there. Nothing is created."""
    if path.exists():
        wrong = errno.EISDIR if path.is_dir() else None if os.access(path, os.W_OK) else errno.EACCES
    else:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        wrong = errno.ENOTDIR if not folder.is_dir() else None if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if wrong is not None:
        raise OSError(wrong, os.strerror(wrong), str(path))


class JSONLog(_File):
    """Log that writes each entry as a line of JSON.

    Parameters
    ----------
    path : path
        The file. Its folder is created if necessary. An existing log is replaced.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The file holds something other than such a log, which would be lost.

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
    """Log that writes each entry as a row of a CSV table.

    The columns are the keys of the first entry, and None is written as an empty field.

    Parameters
    ----------
    path : path
        The file. Its folder is created if necessary. An existing log is replaced.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The file holds something other than such a log, which would be lost.

    Examples
    --------
    >>> log = CSVLog("log.csv")
    >>> log.begin([{"epoch": 0, "train_loss": None}])
    >>> log({"epoch": 1, "train_loss": 0.5})
    >>> log.end()
    >>> print(log.path.read_text(), end="")
    epoch,train_loss
    0,
    1,0.5
    """

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
    """Log for TensorBoard: each number of an entry is a scalar over the updates.

    It needs tensorboardX (``pip install tensorboardX``).

    Parameters
    ----------
    folder : path
        Directory of the event files.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError("fastrnn.callbacks.TensorBoard needs tensorboardX: pip install tensorboardX") from None
        self._writer = SummaryWriter(os.fspath(folder))

    def __call__(self, entry: dict) -> None:
        """Write an entry.

        Parameters
        ----------
        entry : dict
            An entry of the history.
        """
        for name, value in entry.items():
            if name not in ("epoch", "update") and value is not None:
                self._writer.add_scalar(name, value, entry["update"])
        self._writer.flush()
