"""Paths that a user gives, and names that others wrote: what the file system cannot be asked about is not there."""

import os
import pathlib

from nlsr_jax.errors import InputError


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
    """Say whether a folder is there; a name that is too long, or may not be looked up, is none."""
    try:
        return pathlib.Path(path).is_dir()
    except OSError:
        return False


def is_regular(path: str | os.PathLike) -> bool:
    """Say whether a regular file is there; see ``is_folder``."""
    try:
        return pathlib.Path(path).is_file()
    except OSError:
        return False


def exists(path: str | os.PathLike) -> bool:
    """Say whether anything is there; see ``is_folder``."""
    try:
        return pathlib.Path(path).exists()
    except OSError:
        return False


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
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    for entry in entries:
        if exists(entry) and not is_regular(entry) and not is_folder(entry):
            raise InputError(f"{entry}: is not a regular file; remove it")
