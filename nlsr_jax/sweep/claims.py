"""Which process makes what of a sweep: of several that share a folder, each thing is made by one."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import weakref
from collections.abc import Iterator

FILE = ".claims"


class Claims:
    """Names that one process holds against the others; a claim ends with its process, however that ends.

    A name is a locked byte of an empty file, so that nothing is left to tidy. Where the file system has no locks,
    every claim is granted.

    Args:
      folder: what the processes share; it exists.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._opened: int | None = None

    def _handle(self) -> int:
        """The open file; one for all claims, since to close another would give all of this process up."""
        if self._opened is None:
            self._opened = os.open(self._folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            weakref.finalize(self, os.close, self._opened)
        return self._opened

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a name for the block.

        Args:
          name: of a cell, or of an adapter that cells share. Who holds one may only wait for what it is made of.
          wait: until another process that holds the name has let go of it.

        Yields:
          Whether the name is held: False where another process holds it and ``wait`` is False.
        """
        place = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
        handle = self._handle()
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:  # a file system without locks
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(handle, fcntl.LOCK_UN, 1, place)
