"""Digests of a command's large inputs, begun while Python still imports what reads them."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

_PIECE = 2**25
"""After every piece the thread waits for the one that imports: the less often, the better."""


@contextlib.contextmanager
def digesting(files: Iterable[pathlib.Path]) -> Iterator[Callable[[pathlib.Path], Future[str] | None]]:
    """Digest files one after the other in a thread that ends with the block.

    Args:
      files: what is no regular file is left out.

    Yields:
      A function that returns the future SHA-256 of a file, None of one that is not among these or that has changed.
    """
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = {identity: pool.submit(_sha256, path, stop) for path in files if (identity := _identity(path))}
        try:
            yield lambda path: begun.get(_identity(path) or ())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _identity(path: pathlib.Path) -> tuple[int, ...] | None:
    """What changes when a file does; None for what is no regular file."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _sha256(path: pathlib.Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(min(_PIECE, os.fstat(file.fileno()).st_size + 1)))
        while count := file.readinto(buffer):
            if stop.is_set():
                raise concurrent.futures.CancelledError
            digest.update(buffer[:count])
    return digest.hexdigest()
