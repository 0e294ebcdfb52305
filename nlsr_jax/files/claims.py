"""Claims among processes that share a folder, so that each thing in it is made by only one of them."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import weakref
from collections.abc import Iterator

FILE = ".claims"


class Claims:
    """Names that one process claims; a claim ends with its process, however it dies.

    A name is a locked byte of an empty file, so that nothing needs cleaning up. If the file system does not support
    locks, every claim is granted.

    Args:
      folder: an existing folder that the processes share.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._opened: int | None = None

    def _handle(self) -> int:
        """Return the open file, shared by all claims: closing a second one would release every lock."""
        if self._opened is None:
            self._opened = os.open(self._folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            weakref.finalize(self, os.close, self._opened)
        return self._opened

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Claim a name for the block.

        Args:
          name: name of what is to be made, such as a cell of a sweep. A process that holds a name may only wait for
            names that it is made from.
          wait: wait until another process releases the name.

        Yields:
          Whether the name was claimed: False if another process holds it and ``wait`` is False.
        """
        place = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
        handle = self._handle()
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:  # the file system does not support locks
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(handle, fcntl.LOCK_UN, 1, place)
