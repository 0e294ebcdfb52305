"""Output folders and files that appear whole or not at all."""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import Inputs, check_alone, check_apart, check_within
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.ownership import Foreign, check_own, foreign_file, foreign_folder
from nlsr_jax.files.paths import expand
from nlsr_jax.files.scratch import put_file, put_folder, recover, scratch

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    inputs: Inputs | None = None,
    foreign: Foreign = foreign_folder,
) -> pathlib.Path:
    """Return ``path``, checked to be usable as an output folder; what a killed run left beside it is removed.

    Args:
      path: the folder to be; its parent is created when it is written.
      overwrite: allow a folder that exists, if all of it is this project's.
      inputs: what the run reads, by the name for messages; the output may not be, hold or lie in any of it.
      foreign: says what of a folder is not this project's.

    Raises:
      InputError: it exists and ``overwrite`` is False or not all of it is this project's, it overlaps with an
        input, it is a file or a folder that more hangs on, or its parent cannot be written to.
    """
    path = expand(path)
    check_apart(path, inputs)
    recover(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: exists and is not a folder; name another output")
    check_alone(path)
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise InputError(f"{path}: output exists; name another or give --overwrite")
        check_own(path, foreign)
        check_within(path, inputs)
    _check_place(path)
    return path


def check_free_file(
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    inputs: Inputs | None = None,
    foreign: Foreign = foreign_file,
) -> pathlib.Path:
    """Return ``path``, checked to be usable as an output file; what a killed run left beside it is removed.

    Args:
      path: the file to be; its folder is created when it is written.
      overwrite: allow a file that exists, if it is this project's.
      inputs: what the run reads, by the name for messages; the output may not be or lie in any of it.
      foreign: says whether a file is not this project's.

    Raises:
      InputError: it exists and ``overwrite`` is False or it is not this project's, it overlaps with an input, it is
        no file, or its folder cannot be written to.
    """
    path = expand(path)
    check_apart(path, inputs)
    recover(path)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: exists and is not a file; name another output")
    if path.exists():
        if not overwrite:
            raise InputError(f"{path}: output exists; name another or give --overwrite")
        check_own(path, foreign)
    _check_place(path)
    return path


def _check_place(path: pathlib.Path) -> None:
    """Refuse a place that cannot be written to, before anything costly is done for it."""
    folder = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: {folder} is not a folder that can be written to; name another output")


def describe_os_error(error: OSError, path: str | os.PathLike) -> str:
    """Say in one line why ``path`` could not be written or read."""
    if error.errno in _FULL:
        return f"{path}: no space left on the device; free some or name another output"
    return f"{path}: {error.strerror or error}"


@contextlib.contextmanager
def whole_directory(
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    inputs: Inputs | None = None,
    foreign: Foreign = foreign_folder,
) -> Iterator[pathlib.Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block ends without an error.

    Of two processes that write the same output at once, the first to end wins. What is checked before the block is
    checked again after it.

    Args:
      path: the output folder.
      overwrite: replace a folder that exists; it stays as it is until the new one is complete.
      inputs, foreign: see ``check_free``.

    Raises:
      InputError: see ``check_free``, or ``path`` cannot be written (full disk, no permission).
    """
    path = check_free(path, overwrite, inputs=inputs, foreign=foreign)
    try:
        with scratch(path) as place:
            new = place / "new"
            new.mkdir()
            yield new
            _settle(new)
            path = check_free(path, overwrite, inputs=inputs, foreign=foreign)
            _put(put_folder, new, path, overwrite)
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from error


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    inputs: Inputs | None = None,
    foreign: Foreign = foreign_file,
) -> Iterator[pathlib.Path]:
    """Yield a temporary file beside ``path`` that becomes ``path`` when the block ends without an error.

    Of two processes that write the same output at once, the first to end wins. What is checked before the block is
    checked again after it.

    Args:
      path: the output file.
      overwrite: replace a file that exists; it stays as it is until the new one is complete.
      inputs, foreign: see ``check_free_file``.

    Raises:
      InputError: see ``check_free_file``, or ``path`` cannot be written (full disk, no permission).
    """
    path = check_free_file(path, overwrite, inputs=inputs, foreign=foreign)
    try:
        with scratch(path) as place:
            new = place / path.name
            new.touch()
            yield new
            _settle_file(new, _umask())
            path = check_free_file(path, overwrite, inputs=inputs, foreign=foreign)
            _put(put_file, new, path, overwrite)
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from error


def _put(put: Callable, new: pathlib.Path, path: pathlib.Path, overwrite: bool) -> None:
    """Give ``new`` its place, in which another process may have put an output since it was looked at."""
    try:
        put(new, path, overwrite=overwrite)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise InputError(f"{path}: output exists; name another or give --overwrite") from error
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _settle(folder: pathlib.Path) -> None:
    """Flush every file to the disk and give the folder the usual permissions."""
    umask = _umask()
    folder.chmod(0o777 & ~umask)
    for file in folder.rglob("*"):
        if file.is_file():
            _settle_file(file, umask)


def _settle_file(file: pathlib.Path, umask: int) -> None:
    file.chmod(0o666 & ~umask)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


class LargeFile:
    """A file written mostly front to back: digested on the way, brought to the disk piece by piece.

    What is on the disk is let go of from memory, so that many gigabytes neither fill the page cache nor are
    read again for their digest. The disk takes a piece while the next one is written.

    Args:
      path: the file; what it holds is lost.
      size: its size to be, in bytes.

    Raises:
      OSError: the disk is full or the file cannot be written.
    """

    _PIECE = 2**25

    def __init__(self, path: str | os.PathLike, size: int):
        self.path = pathlib.Path(path)
        self._size = size
        self._place = self._unsettled = 0
        self._digest = hashlib.sha256()
        self._in_order = True
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._settling: concurrent.futures.Future[None] | None = None
        self._file = self.path.open("wb", buffering=0)
        try:
            self._file.truncate(size)
        except OSError:
            self._file.close()
            raise

    def write(self, data: Any, offset: int | None = None) -> None:
        """Write bytes at ``offset``, by default behind what was written last."""
        left = memoryview(data)
        if offset is not None and offset != self._place:
            self._in_order = False
            self._place = self._file.seek(offset)
        if self._in_order:
            self._digest.update(left)
        while len(left):
            count = self._file.write(left)
            left = left[count:]
            self._place += count
            self._unsettled += count
            if self._unsettled >= self._PIECE:
                self._settle()

    def _settle(self) -> None:
        """Have the disk take what has been written; raise what went wrong with the piece before."""
        self._wait()
        self._settling = self._pool.submit(self._bring_to_disk)
        self._unsettled = 0

    def _bring_to_disk(self) -> None:
        handle = self._file.fileno()
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def _wait(self) -> None:
        settling, self._settling = self._settling, None
        if settling is not None:
            settling.result()

    def close(self) -> None:
        """Bring the rest to the disk and close the file."""
        if not self._file.closed:
            try:
                self._settle()
                self._wait()
            finally:
                self._pool.shutdown()
                self._file.close()

    def sha256(self) -> str:
        """Return the SHA-256 of the closed file; it is read again only if it was not written in order."""
        if self._in_order and self._place == self._size:
            return self._digest.hexdigest()
        return sha256(self.path)


def copy_digested(source: str | os.PathLike, target: str | os.PathLike) -> str:
    """Copy a file of any size and return its SHA-256."""
    with pathlib.Path(source).open("rb", buffering=0) as file:
        copy = LargeFile(target, os.fstat(file.fileno()).st_size)
        try:
            buffer = memoryview(bytearray(2**22))
            while count := file.readinto(buffer):
                copy.write(buffer[:count])
        finally:
            copy.close()
    return copy.sha256()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text with Unix line ends."""
    pathlib.Path(path).write_text(text, encoding="utf-8", newline="\n")
