"""Writing to disk: files that are there whole or not at all, errors that name them, locks between processes."""

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

PIECE = 1 << 24  # bytes given to the system at once: between two pieces Ctrl-C is answered
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# What a file system answers that cannot fsync directories
_NO_FSYNC = {errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def naming(path):
    """Let an OSError of the system that is raised inside name this path, also where Python would name none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
            if error.filename2 is not None:
                del error.filename2  # None would be shown
        raise


# ---- files ------------------------------------------------------------------------------------------------------------


class _Output:
    """A file that is being written; `failure` is what the first `write` that failed has raised."""

    def __init__(self, descriptor):
        self._descriptor, self.failure = descriptor, None

    def write(self, data) -> int:
        """Write all of it."""
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
        """Write each of several pieces."""
        for piece in pieces:
            self.write(piece)

    def flush(self) -> None:
        """There is nothing to flush."""


def _fill(descriptor, fill):
    file = _Output(descriptor)
    try:
        return fill(file)
    except BaseException:
        if file.failure is not None:  # torch makes another error of it
            raise file.failure from None
        raise


def write_file(folder: Path, name: str, fill) -> str:
    """Write a file under a temporary name, then give it its own: it is there whole or not at all, also after a power failure.

    Parameters
    ----------
    folder : it must exist
    name : of the file; the temporary name is this, 16 random digits and ".tmp"
    fill : called with a file to `write` to; it may return another name for the file

    Returns
    -------
    the name of the file

    Raises
    ------
    OSError  it cannot be written; what had that name is as it was, and the temporary file is gone.
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
    """A name that no other process, thread or earlier call uses."""
    return f"{name[:40]}.{os.urandom(8).hex()}.tmp"


TEMPORARY = r"\.[0-9a-f]{16}\.tmp"  # what `temporary_name` adds, as a regular expression


def write_output(path, fill) -> None:
    """Write a file that the user has named: whole or not at all, if it is a regular one.

    Parameters
    ----------
    path : a symbolic link is followed; a device or a pipe is written to
    fill : as `write_file` takes it

    Raises
    ------
    OSError  it cannot be written; the message names it.
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
    """Let a block write a file beside `path`, which is given that name at the end if nothing has it.

    Yields
    ------
    the temporary path; the file is removed if the block raises

    Raises
    ------
    FileExistsError  another process has made the file meanwhile; it stays as it is.
    OSError          it cannot be written; the message names `path`.
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
            except OSError:  # of a file system without links
                os.replace(temporary, final)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Write a directory's names to disk; nothing where the system cannot do that."""
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
    """Make a directory and those above it, and write their names to disk; the list of those that were missing, the lowest first."""
    missing, at = [], folder
    while not at.exists() and at != at.parent:
        missing.append(at)
        at = at.parent
    for new in reversed(missing):
        with contextlib.suppress(FileExistsError), naming(new):  # another process may have made it just now
            os.mkdir(new)
        sync_folder(new.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return missing


# ---- locks ------------------------------------------------------------------------------------------------------------


class LockedFile:
    """A file that is open for writing, and that no other LockedFile has, in this process or another.

    The lock ends when it is closed, when the process ends, however it does, and in a child process that was forked.

    Parameters
    ----------
    path : of the file; it is made if it is not there
    wait : until another one is closed, or raise
    flags : more flags of os.open

    Attributes
    ----------
    descriptor : of the open file; None when it is closed
    regular : whether it is a regular file, not a device or a pipe
    locked : whether it is locked: not if the file system has no locks, nor if it is not regular

    Raises
    ------
    BlockingIOError  another one has it, and `wait` is False.
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
        except BaseException as error:  # Ctrl-C while it waits, too
            if not isinstance(error, OSError) or isinstance(error, BlockingIOError):
                self.close()
                raise

    def is_current(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return self.descriptor is not None and os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Close it, and let others have it."""
        descriptor, self.descriptor, self.locked = self.descriptor, None, False
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self):
        self.close()


_open_files = weakref.WeakSet()


def _close_in_child():
    """A child that lives longer than its parent would keep the locks."""
    for file in list(_open_files):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool):
    """Hold a lock that all ask for by this path; its file is there only as long.

    Yields
    ------
    whether it is held: False where the file system has no locks

    Raises
    ------
    BlockingIOError  another process, or another thread, holds it, and `wait` is False.
    """
    while True:
        with naming(path.parent):
            file = LockedFile(path, wait=wait, flags=getattr(os, "O_NOFOLLOW", 0))
        if not file.locked or file.is_current():  # the one who had it has removed the file
            break
        file.close()
    try:
        yield file.locked
    finally:
        if file.is_current():  # not so in a forked child
            with contextlib.suppress(OSError):
                os.unlink(path)
        file.close()
