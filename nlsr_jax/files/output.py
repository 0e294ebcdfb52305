"""Output folders and files that appear complete or not at all."""

import contextlib
import errno
import functools
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import Inputs, check_alone, check_apart, check_within
from nlsr_jax.files.ownership import Foreign, check_own, foreign_file, foreign_folder
from nlsr_jax.files.paths import expand
from nlsr_jax.files.scratch import put_file, put_folder, recover, scratch

_EXISTS = "output exists; name another or give --overwrite"
_STATUS = pathlib.Path("/proc/self/status")
_ASKING = threading.Lock()
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
      overwrite: allow a folder that exists, if this project wrote all of it.
      inputs: what the run reads, by the name for messages; the output may not be, hold or lie in any of it.
      foreign: says what of a folder this project has not written.

    Raises:
      InputError: it exists and ``overwrite`` is False or this project has not written all of it, it overlaps with
        an input, it is a file or a folder that more depends on, or its parent cannot be written to.
    """
    path = _start(path, inputs)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: exists and is not a folder; name another output")
    check_alone(path)
    if path.is_dir() and any(path.iterdir()):
        _check_taken(path, overwrite, foreign)
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
      overwrite: allow a file that exists, if this project wrote it.
      inputs: what the run reads, by the name for messages; the output may not be or lie in any of it.
      foreign: says whether this project has not written a file.

    Raises:
      InputError: it exists and ``overwrite`` is False or this project has not written it, it overlaps with an
        input, it is not a file, or its folder cannot be written to.
    """
    path = _start(path, inputs)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: exists and is not a file; name another output")
    if path.exists():
        _check_taken(path, overwrite, foreign)
    _check_place(path)
    return path


def _start(path: str | os.PathLike, inputs: Inputs | None) -> pathlib.Path:
    path = expand(path)
    check_apart(path, inputs)
    recover(path)
    return path


def _check_taken(path: pathlib.Path, overwrite: bool, foreign: Foreign) -> None:
    if not overwrite:
        raise InputError(f"{path}: {_EXISTS}")
    check_own(path, foreign)


def _check_place(path: pathlib.Path) -> None:
    """Refuse a place that cannot be written to, before any costly work."""
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
      overwrite: replace a folder that exists; it stays unchanged until the new one is complete.
      inputs, foreign: see ``check_free``.

    Raises:
      InputError: see ``check_free``, or ``path`` cannot be written (full disk, no permission).
    """
    check = functools.partial(check_free, overwrite=overwrite, inputs=inputs, foreign=foreign)
    with _whole(path, check, "new", functools.partial(put_folder, overwrite=overwrite)) as new:
        new.mkdir()
        yield new
        _settle(new)


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
      overwrite: replace a file that exists; it stays unchanged until the new one is complete.
      inputs, foreign: see ``check_free_file``.

    Raises:
      InputError: see ``check_free_file``, or ``path`` cannot be written (full disk, no permission).
    """
    check = functools.partial(check_free_file, overwrite=overwrite, inputs=inputs, foreign=foreign)
    with _whole(path, check, None, functools.partial(put_file, overwrite=overwrite)) as new:
        new.touch()
        yield new
        _settle_file(new, _umask())


@contextlib.contextmanager
def _whole(
    path: str | os.PathLike, check: Callable[[Any], pathlib.Path], name: str | None, put: Callable
) -> Iterator[pathlib.Path]:
    """Yield a temporary path with this name, or the output's; at the end put what is there into its place."""
    path = check(path)
    try:
        with scratch(path) as place:
            new = place / (name or path.name)
            yield new
            path = check(path)
            _put(put, new, path)
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from error


def _put(put: Callable, new: pathlib.Path, path: pathlib.Path) -> None:
    """Put ``new`` into its place; another process may have put an output there since the check."""
    try:
        put(new, path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise InputError(f"{path}: {_EXISTS}") from error
        raise


def _umask() -> int:
    """Return the umask, from the system's status file where there is one.

    Elsewhere a process learns its umask only by setting it. It is state of the whole process: if two threads did so
    at the same time, one could restore the other's 0.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"^Umask:\s*([0-7]+)$", _STATUS.read_text(), re.MULTILINE):
            return int(found[1], 8)
    with _ASKING:
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


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text with Unix line ends."""
    pathlib.Path(path).write_text(text, encoding="utf-8", newline="\n")
