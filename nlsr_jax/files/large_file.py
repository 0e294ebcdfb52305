"""Files of many gigabytes, written without filling the page cache and digested on the way."""

import concurrent.futures
import hashlib
import os
import pathlib

from nlsr_jax.files.digests import sha256


class LargeFile:
    """A file that is written mostly in order, digested on the way and flushed to the disk piece by piece.

    Flushed pieces leave the page cache, so that many gigabytes do not fill it and need not be read again for their
    digest. The disk writes one piece while the next one is made.

    Args:
      path: the file; its content is lost.
      size: its final size in bytes.

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

    def write(self, data, offset: int | None = None) -> None:
        """Write bytes at ``offset``, by default after the latest ones."""
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
        """Start to flush what has been written; raise the error of the piece before."""
        self._wait()
        self._settling = self._pool.submit(self._flush)
        self._unsettled = 0

    def _flush(self) -> None:
        handle = self._file.fileno()
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def _wait(self) -> None:
        settling, self._settling = self._settling, None
        if settling is not None:
            settling.result()

    def close(self) -> None:
        """Flush the rest and close the file."""
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
