"""Digests of a command's large inputs, begun while Python still imports what reads them."""

import concurrent.futures
import contextlib
import hashlib
import pathlib
import stat
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

_PIECE = 2**20


@contextlib.contextmanager
def digesting(files: Iterable[pathlib.Path]) -> Iterator[dict[pathlib.Path, Future[str]]]:
    """Digest files one after the other in a thread that ends with the block.

    Args:
      files: what is no regular file is left out.

    Yields:
      ``{resolved path: future of the SHA-256}``; what is not done at the end of the block is cancelled.
    """
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            yield {path.resolve(): pool.submit(_sha256, path, stop) for path in files if _is_regular(path)}
        finally:
            stop.set()


def _is_regular(path: pathlib.Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return False


def _sha256(path: pathlib.Path, stop: threading.Event) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if stop.is_set():
                raise concurrent.futures.CancelledError
            digest.update(buffer[:count])
    return digest.hexdigest()
