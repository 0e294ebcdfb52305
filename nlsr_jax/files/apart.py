"""Checks that an output does not overlap with an input or another output, and is not a folder such as the home.

Files and folders are compared by device and inode, so that links, ``..``, other spellings and other mounts of one
folder make no difference.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand

Inputs = Mapping[str, str | os.PathLike | None]
"""What a run reads, by the name that messages give it, such as ``--base``. Hub names and None are left out."""
_Identity = tuple[int, int]


def check_apart(output: pathlib.Path, inputs: Inputs | None) -> None:
    """Refuse an output that is, holds or lies in an input.

    Args:
      output: where something will be written; it may exist or not.
      inputs: what is read.

    Raises:
      InputError: naming the input.
    """
    own, around = _identity(output), set(_chain(output))
    for name, path in (inputs or {}).items():
        place = expand(path) if path else None
        read = place and _identity(place)
        if place is None or read is None:
            continue
        if read == own:
            how = "is"
        elif own is not None and own in _chains(place):
            how = "holds"
        elif read in around:
            how = "lies in"
        else:
            continue
        raise InputError(f"{output}: {how} the input {name} ({path}); name another output")


def check_within(output: pathlib.Path, inputs: Inputs | None) -> None:
    """Refuse an output in which an input is mounted; this reads every folder of the output.

    Args:
      output: a folder.
      inputs: what is read.

    Raises:
      InputError: naming the input.
    """
    within = {_identity(pathlib.Path(folder)) for folder, _, _ in os.walk(output)}
    for name, path in (inputs or {}).items():
        if path and within & set(_chains(expand(path))):
            raise InputError(f"{output}: holds the input {name} ({path}); name another output")


def check_outputs(outputs: Mapping[str, str | os.PathLike | None]) -> None:
    """Refuse two outputs that are the same place, or of which one lies in the other.

    Args:
      outputs: by flag.

    Raises:
      InputError: naming both.
    """
    given = {name: expand(path) for name, path in outputs.items() if path}
    names = list(given)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if _overlap(given[one], given[other]) or _overlap(given[other], given[one]):
                raise InputError(
                    f"{one} ({given[one]}) and {other} ({given[other]}) are one place, or one lies in the other; "
                    "name two places"
                )


def check_alone(output: pathlib.Path) -> None:
    """Refuse the current folder, the home folder, every folder above them, and mount points.

    Raises:
      InputError: it is one of these.
    """
    own = _identity(output)
    if output.name in ("", "..") or (own is not None and any(own in _chain(place) for place in _busy())):
        raise InputError(
            f"{output}: is the current folder, the home folder or one above them; name a folder of the output's own"
        )
    if os.path.ismount(output):
        raise InputError(f"{output}: a file system is mounted there; name a folder in it")


def _busy() -> Iterator[pathlib.Path]:
    with contextlib.suppress(OSError):  # a current folder that has been removed
        yield pathlib.Path.cwd()
    yield expand("~")


def _identity(path: pathlib.Path) -> _Identity | None:
    """Return device and inode of a file or folder; None if nothing is there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # what cannot be looked up does not exist
        return None
    return found.st_dev, found.st_ino


def _chain(path: pathlib.Path) -> Iterator[_Identity]:
    """Yield the identities of a path and of the folders above it, as written and with links resolved."""
    for one in (path.absolute(), _real(path)):
        for place in (one, *one.parents):
            if identity := _identity(place):
                yield identity


def _chains(place: pathlib.Path) -> Iterator[_Identity]:
    """Yield the identities of an input and of the folders above it, and the same for the targets of links in it."""
    yield from _chain(place)
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            if os.path.islink(f"{folder}/{name}"):  # noqa: PTH114 - data sets have many files
                yield from _chain(pathlib.Path(folder, name))


def _real(path: pathlib.Path) -> pathlib.Path:
    try:
        return pathlib.Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path.absolute()


def _overlap(outer: pathlib.Path, inner: pathlib.Path) -> bool:
    """Say whether the places are the same or ``inner`` lies in ``outer``; they need not exist."""
    identity = _identity(outer)
    if identity is not None and identity in _chain(inner):
        return True
    first, second = ([part.casefold() for part in _real(path).parts] for path in (outer, inner))
    return second[: len(first)] == first
