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
from nlsr_jax.pipeline.passes import Passes

_Made = TypeVar("_Made")
_DIGESTS = 4096


class Shared:
    """Values that several runs need, each made by the first that asks for it.

    A value's key holds all that decides it, with the ``stamp`` of the files that it was read from: a file that
    changes is read again.

    Args:
      kept: values of one name that are kept; the one that was not used for longest is dropped.
      passes: how runs go through the base; None for one at a time.

    Attributes:
      passes: the argument.
      guesses: what the last run has found that the next may find too; a wrong guess costs time alone.
    """

    def __init__(self, kept: int = 1, passes: Passes | None = None):
        self.guesses: dict[str, Any] = {}
        self._kept, self.passes = kept, passes or Passes()
        self._made: dict[str, collections.OrderedDict[Hashable, Any]] = {}
        self._lock = threading.RLock()
        self._digest = functools.lru_cache(_DIGESTS)(lambda path, stamp: sha256(path))

    def once(self, name: str, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return the value with this name and key; make it if none is kept. One thread makes a value at a time."""
        with self._lock:
            made = self._made.setdefault(name, collections.OrderedDict())
            if key not in made:
                made[key] = make()
            made.move_to_end(key)
            while len(made) > self._kept:
                made.popitem(last=False)
            return made[key]

    def digest(self, path: pathlib.Path) -> str:
        """Return the SHA-256 of a file, which is read again only if its stamp has changed."""
        return self._digest(path, stamp(path))


def stamp(path: str | os.PathLike | None) -> Hashable:
    """Return a value that changes when a local file, or a file of a folder, is written; of a hub id the id."""
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
