"""Writing to disk: atomic writes, errors that name the file, locks between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PIECE = 1 << 24  # bytes written at once; Ctrl-C takes effect between two pieces
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# Errors of file systems that cannot fsync directories
_NO_FSYNC = {errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def naming(path):
    """Set the file name of an OSError that is raised inside, also where Python sets none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
            if error.filename2 is not None:
                del error.filename2  # set to None it would appear in the message
        raise


# ---- files
# ------------------------------------------------------------------------------------------------------------


class _Output:
    """A file that is being written. `failure` is the error of the first `write` that failed."""

    def __init__(self, descriptor):
        self._descriptor, self.failure = descriptor, None

    def write(self, data) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B") if len(data) else b""
        try:
            for first in range(0, len(view), PIECE):
                piece = view[first : first + PIECE]
                while len(piece):
                    piece = piece[os.write(self._descriptor, piece) :]
        except BaseException as error:
            self.failure = self.failure or error
            raise
        return len(view)

    def write_all(self, pieces) -> None:
        """Write several pieces."""
        for piece in pieces:
            self.write(piece)

    def flush(self) -> None:
        """Do nothing, as nothing is buffered."""


def _fill(descriptor, fill):
    file = _Output(descriptor)
    try:
        return fill(file)
    except BaseException:
        if file.failure is not None:  # torch.save replaces the error by another one
            raise file.failure from None
        raise


def write_file(folder: Path, name: str, fill) -> str:
    """Write a file atomically: under a temporary name, which is replaced at the end. Safe against a power failure.

    Parameters
    ----------
    folder : Path
        Existing directory.
    name : str
        Name of the file. The temporary name is this, 16 random digits and ".tmp".
    fill : callable
        Called with a file to `write` to. It may return another name for the file.

    Returns
    -------
    str
        Name of the file.

    Raises
    ------
    OSError
        The file cannot be written. A file of that name is unchanged, and the temporary file is removed.
    """
    temporary = folder / temporary_name(name)
    try:
        with naming(folder / name):
            descriptor = os.open(temporary, _NEW, 0o666)
            try:
                name = _fill(descriptor, fill) or name
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, folder / name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)
    return name


def temporary_name(name: str) -> str:
    """Return a name that no other process, thread or earlier call uses."""
    return f"{name[:40]}.{os.urandom(8).hex()}.tmp"


TEMPORARY = r"\.[0-9a-f]{16}\.tmp"  # what `temporary_name` adds, as a regular expression


def write_output(path, fill) -> None:
    """Write a file that the user named, atomically if it is a regular file.

    Parameters
    ----------
    path : str or os.PathLike
        The file. A symbolic link is followed; a device or a pipe is written to directly.
    fill : callable
        As for `write_file`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with naming(path):
        final = Path(os.path.realpath(path))
        if os.path.exists(path) and not os.path.isfile(path):
            descriptor = os.open(path, os.O_WRONLY)
            try:
                _fill(descriptor, fill)
            finally:
                os.close(descriptor)
            return
        write_file(final.parent, final.name, fill)


@contextlib.contextmanager
def new_file(path):
    """Write a new file in a ``with`` block, under a temporary name. At the end it is renamed to `path`.

    Yields
    ------
    Path
        Temporary path. The file is removed if the block raises an error.

    Raises
    ------
    FileExistsError
        Another process created the file in the meantime. It is unchanged.
    OSError
        The file cannot be written.
    """
    final = Path(os.path.realpath(path))
    temporary = final.with_name(temporary_name(final.name))
    try:
        with naming(path):
            yield temporary
            try:
                os.link(temporary, final)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                os.replace(temporary, final)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a directory to disk, where the system supports it."""
    if os.name != "posix":  # a directory cannot be opened on Windows
        return
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> list:
    """Create a directory and its parents; returns those that did not exist, the innermost first."""
    missing, at = [], folder
    while not at.exists() and at != at.parent:
        missing.append(at)
        at = at.parent
    for new in reversed(missing):
        with contextlib.suppress(FileExistsError), naming(new):  # another process may have created it
            os.mkdir(new)
        sync_folder(new.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return missing


# ---- locks
# ------------------------------------------------------------------------------------------------------------


class LockedFile:
    """File that is open for writing and locked against all other LockedFiles, in this process and others.

    The lock is released when the file is closed, when the process ends, and in a forked child.

    Parameters
    ----------
    path : str or os.PathLike
        The file. It is created if it does not exist.
    wait : bool
        Wait until the lock is released; otherwise raise a BlockingIOError.
    flags : int, default 0
        Additional flags for os.open.

    Attributes
    ----------
    descriptor : int or None
        Descriptor of the open file, None after it is closed.
    regular : bool
        Whether it is a regular file, not a device or a pipe.
    locked : bool
        Whether it is locked. Not if the file system has no locks or the file is not regular.
    """

    descriptor, regular, locked = None, False, False

    def __init__(self, path, *, wait: bool, flags: int = 0):
        self.path = path
        _open_files.add(self)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        try:
            self.regular = stat.S_ISREG(os.fstat(self.descriptor).st_mode)
            if fcntl is not None and self.regular:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                self.locked = True
        except BaseException as error:  # also Ctrl-C during the wait
            if not isinstance(error, OSError) or isinstance(error, BlockingIOError):
                self.close()
                raise

    def is_current(self) -> bool:
        """Whether the path still refers to this file."""
        try:
            return self.descriptor is not None and os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file and release the lock."""
        descriptor, self.descriptor, self.locked = self.descriptor, None, False
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self):
        self.close()


_open_files = weakref.WeakSet()


def _close_in_child():
    """Close the files in a forked child, which would keep the locks if it outlived its parent."""
    for file in list(_open_files):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool):
    """Hold the lock of a path for a ``with`` block. The lock file exists only as long.

    Yields
    ------
    bool
        Whether the lock is held: False if the file system has no locks.

    Raises
    ------
    BlockingIOError
        Another process or thread holds the lock, and `wait` is False.
    """
    while True:
        with naming(path.parent):
            file = LockedFile(path, wait=wait, flags=getattr(os, "O_NOFOLLOW", 0))
        if not file.locked or file.is_current():  # otherwise the previous holder has removed it
            break
        file.close()
    try:
        yield file.locked
    finally:
        if file.is_current():  # not in a forked child
            with contextlib.suppress(OSError):
                os.unlink(path)
        file.close()
