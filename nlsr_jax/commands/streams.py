"""Standard output and error whose reader may go away: what cannot be shown is not shown, and the run goes on.

Python's own streams raise BrokenPipeError in the middle of whatever prints, and are None where the shell has closed
them (``2>&-``); then the next file that is opened takes their number, and what a library prints lands in it.
"""

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EBADF)


class Stream(io.FileIO):
    """The bytes of a standard stream; writing to it never fails.

    Args:
      handle: the number of the open file.

    Attributes:
      failure: why what was written is lost although somebody wanted it, such as a full disk; None where nothing is
        lost, or the reader has gone away.
    """

    def __init__(self, handle: int):
        super().__init__(handle, "wb", closefd=False)
        self.failure: OSError | None = None
        self._lost = False
        self._terminal = self.isatty()

    def write(self, data: Any) -> int:
        """Write all of the bytes, or drop them where they cannot be written."""
        left = memoryview(data).cast("B")
        size = len(left)
        while len(left) and not self._lost:
            try:
                count = super().write(left)
            except OSError as error:
                self._lose(error)
                break
            if count is None:  # a full pipe that does not wait by itself
                select.select([], [self], [])
            else:
                left = left[count:]
        return size

    def _lose(self, error: OSError) -> None:
        self._lost = True
        closed_terminal = self._terminal and error.errno == errno.EIO
        if error.errno not in _GONE and not closed_terminal:
            self.failure = error


def open_streams() -> None:
    """Let standard output and error outlive their readers; those that are closed are opened, and show nothing."""
    for handle in range(3):
        _open_if_closed(handle)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _patient(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _patient(sys.stderr, 2)


def _open_if_closed(handle: int) -> None:
    """Give a closed number to the null device, lest the next file that is opened gets it."""
    try:
        os.fstat(handle)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != handle:
            os.dup2(null, handle)
            os.close(null)
        os.set_inheritable(handle, True)


def _patient(stream: TextIO | None, handle: int) -> TextIO:
    """Return a text stream on the same file that never fails; ``stream`` is None where the file was closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - open until the process ends
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    raw = Stream(handle)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # type: ignore[type-var, arg-type]
        encoding=stream.encoding,
        errors="backslashreplace",  # where the locale lacks a letter
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def check_printed() -> None:
    """End the program with a line where what was printed is lost although somebody wanted it."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return
    stream.flush()
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if isinstance(raw, Stream) and raw.failure is not None:
        sys.exit(f"error: standard output: {raw.failure.strerror}; what was printed is lost, all else is done")
