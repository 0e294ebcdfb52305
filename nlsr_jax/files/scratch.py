"""The hidden folder beside an output in which the output is made, and the rename that puts it into its place.

The process that makes an output locks that folder and leaves a mark in it. The lock ends with the process. So the
next run into the same output recognises what a killed run left, and removes it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

_SUFFIX, _OLD, _MARK = ".partial", "old", ".nlsr_jax"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


@contextlib.contextmanager
def scratch(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield an empty folder beside ``path``; it is removed at the end with everything in it.

    Args:
      path: the future output; its parent is created.

    Raises:
      OSError: the folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, handle = _make(path)
    try:
        yield folder
    finally:
        try:
            _remove(folder)
        finally:
            os.close(handle)


def recover(path: pathlib.Path) -> None:
    """Remove what killed runs into ``path`` left, and put back an old output that they had moved aside.

    Folders that a live process holds stay, and so do all folders on file systems without locks, and folders of such
    a name that hold anything without the mark.
    """
    pattern = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}" + re.escape(_SUFFIX))
    with contextlib.suppress(OSError):
        for folder in path.parent.iterdir():
            if pattern.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                _recover(folder, path)


def _recover(folder: pathlib.Path, path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / _MARK).is_file():
                if (folder / _OLD).exists() and not path.exists():
                    (folder / _OLD).rename(path)
                _remove(folder)
            folder.rmdir()
        finally:
            os.close(handle)


def _remove(folder: pathlib.Path) -> None:
    """Remove a scratch folder as far as that is possible, its mark last."""
    with contextlib.suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if entry.name != _MARK]:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        if [entry.name for entry in folder.iterdir()] == [_MARK]:
            (folder / _MARK).unlink()
        folder.rmdir()


def _make(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Make a folder and lock it; returns it and the open handle that holds the lock."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent))
        with contextlib.suppress(FileNotFoundError):  # another run has just removed it as left over
            handle = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                _mark(folder, handle)
                return folder, handle
            os.close(handle)


def _mark(folder: pathlib.Path, handle: int) -> None:
    try:
        (folder / _MARK).touch()
    except OSError:
        os.close(handle)
        folder.rmdir()
        raise


def put_folder(new: pathlib.Path, path: pathlib.Path, *, overwrite: bool) -> None:
    """Move ``new``, a folder in a ``scratch``, to ``path``; what was there stays in the scratch folder.

    Raises:
      OSError: the place is taken and ``overwrite`` is False, or it cannot be written to.
    """
    if not overwrite or not path.exists():
        new.rename(path)  # which fails at a folder that is not empty
    elif not _exchange(new, path):
        old = new.with_name(_OLD)
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise


def put_file(new: pathlib.Path, path: pathlib.Path, *, overwrite: bool) -> None:
    """Move ``new``, a file in a ``scratch``, to ``path``.

    Raises:
      OSError: the place is taken and ``overwrite`` is False, or it cannot be written to.
    """
    if not overwrite:
        try:
            path.hardlink_to(new)
            return
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            if path.exists():  # and a file system without links
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
    new.replace(path)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Exchange two names atomically, so that neither is ever missing; False if the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(other))
