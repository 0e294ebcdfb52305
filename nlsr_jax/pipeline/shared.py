"""What the runs of one process have in common, made once: the base, calibration rows, digests of files."""

import collections
import functools
import os
import pathlib
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from nlsr_jax.files.digests import sha256
from nlsr_jax.files.paths import expand

_Made = TypeVar("_Made")
_DIGESTS = 4096


class Shared:
    """Values that several runs need, each made by the first that asks for it.

    A value's key holds all that decides it, with the ``stamp`` of the files that it was read from: a file that
    changes is read again.

    Args:
      kept: values of one name that are kept; the one that was not used for longest is dropped.
    """

    def __init__(self, kept: int = 1):
        self._kept = kept
        self._made: dict[str, collections.OrderedDict[Hashable, Any]] = {}
        self._lock = threading.RLock()
        self._digest = functools.lru_cache(_DIGESTS)(lambda path, stamp: sha256(path))

    def once(self, name: str, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return a value, made where none with this name and key is kept."""
        with self._lock:
            made = self._made.setdefault(name, collections.OrderedDict())
            if key not in made:
                made[key] = make()
            made.move_to_end(key)
            while len(made) > self._kept:
                made.popitem(last=False)
            return made[key]

    def digest(self, path: pathlib.Path) -> str:
        """Return the SHA-256 of a file, read again only where its stamp has changed."""
        return self._digest(path, stamp(path))


def stamp(path: str | os.PathLike | None) -> Hashable:
    """Return what changes with the content of a local file, or with the files of a folder; a hub id is itself."""
    if path is None:
        return None
    place = expand(path)
    try:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        return str(path), tuple((file.name, *_stamp(file)) for file in files)
    except OSError:
        return str(path)


def _stamp(file: pathlib.Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
