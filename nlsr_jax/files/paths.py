"""Paths that a user gives and names that others wrote; what the file system refuses to look up is not there."""

import os
import pathlib
import stat
from collections.abc import Callable

from nlsr_jax.errors import InputError

_LFS = b"version https://git-lfs"
START = len(_LFS)
"""So many bytes of a file tell what it is; see ``check_start``."""


def expand(path: str | os.PathLike) -> pathlib.Path:
    """Return a path that a user gives, with ``~`` as the home folder."""
    text = expand_text(os.fspath(path))
    place = pathlib.Path(text)
    # "./~" is a name in the current folder, also when it is expanded once more.
    return (
        place.absolute() if place.parts[:1] != () and place.parts[0].startswith("~") and text[0] != "~" else place
    )


def expand_text(path: str) -> str:
    """Return a path or another name that a user gives, unchanged but for ``~``."""
    try:
        return os.path.expanduser(path)  # noqa: PTH111 - that of pathlib fails where there is no such user
    except ValueError:  # half a surrogate pair or a zero byte, which no user's name has
        return path


def is_folder(path: str | os.PathLike) -> bool:
    """Say whether a folder is there; False for a name that is too long or may not be looked up."""
    return _ask(pathlib.Path.is_dir, path)


def is_regular(path: str | os.PathLike) -> bool:
    """Say whether a regular file is there; see ``is_folder``."""
    return _ask(pathlib.Path.is_file, path)


def exists(path: str | os.PathLike) -> bool:
    """Say whether anything is there; see ``is_folder``."""
    return _ask(pathlib.Path.exists, path)


def _ask(question: Callable[[pathlib.Path], bool], path: str | os.PathLike) -> bool:
    try:
        return question(pathlib.Path(path))
    except OSError:
        return False


def unreadable(path: str | os.PathLike, error: Exception) -> InputError:
    """Return the error that says why a file or folder cannot be read."""
    return InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")


def check_file(path: pathlib.Path, what: str) -> int:
    """Return the size of a regular file.

    Args:
      path: the file.
      what: what the file should be, such as ``"the adapter config"``.

    Raises:
      InputError: it is missing or a folder, or a pipe or device, which a reader would wait for.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {what}") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise InputError(f"{path}: is {found}; expected {what}")
    return status.st_size


def check_start(start: bytes, path: pathlib.Path, what: str) -> None:
    """Refuse an empty file and a Git-LFS pointer.

    Args:
      start: its first ``START`` bytes, or more.
      path, what: as for ``check_file``.

    Raises:
      InputError: it is one of them.
    """
    if not start.strip():
        raise InputError(f"{path}: is empty; expected {what}")
    if start.startswith(_LFS):
        raise InputError(f"{path}: a Git-LFS pointer, not {what}; run 'git lfs pull'")


def leads_outside(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Return what a file links to where that is outside its folder, and not in the store of the hub's own cache.

    Args:
      folder: a folder.
      name: of a file in it.
    """
    home, file = (pathlib.Path(os.path.realpath(path)) for path in (folder, folder / name))
    stores = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    return None if any(file.is_relative_to(place) for place in (home, *stores)) else file


def check_regular(folder: pathlib.Path) -> None:
    """Refuse a folder with a pipe or a device in it, which a reader would wait for.

    Raises:
      InputError: naming it, or the folder where it cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    for entry in entries:
        if exists(entry) and not is_regular(entry) and not is_folder(entry):
            raise InputError(f"{entry}: is not a regular file; remove it")
