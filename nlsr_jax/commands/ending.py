"""How a command ends before its time: by a signal, or because the process that started it has ended.

SIGTERM and SIGHUP end a command as SIGINT does: an exception unwinds what it is doing, temporary folders are
removed, and its status is 128 and the signal's number, as shells have it. A main thread that is inside XLA cannot
raise one: if it has not begun to end in ``PATIENCE`` seconds, the process is ended all the same, and the next
command removes what it left.

A program that is started with the options of ``tied`` reads a pipe whose other end its parent holds. The system
closes that end with the parent, however that ends, and the program then ends as by SIGTERM.
"""

import contextlib
import os
import pathlib
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import nlsr_jax
from nlsr_jax.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 5.0
"""Seconds in which the main thread has to begin to end."""
_AGAIN = 2.0
"""A terminal and a parent may both say it: signals within these seconds of the first are one with it."""
_NUDGE = 0.05
_ORPHAN = 30.0
"""Seconds after which nobody waits for what a program without a parent still tidies."""
_TIE = "NLSR_JAX_TIED_TO"


class _Watch:
    """Handles signals in the main thread, and sees to it from a second one that they are heeded."""

    def __init__(self, tie: int | None):
        self.is_child = tie is not None
        self.active = False
        self.number: int | None = None
        self._tie, self._main = tie, threading.get_ident()
        self._begun = False  # no Event: its lock is not for handlers, which interrupt each other
        self._error: Callable[[], Interrupted | None] = lambda: None
        self._last = -_AGAIN
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def end(self, number: int, _) -> None:
        """Handle a signal."""
        self.number = self.number or number
        self._begun = True
        if self._error() is None or time.monotonic() - self._last >= _AGAIN:
            self._last = time.monotonic()
            raise self._interrupted(number)

    def _interrupted(self, number: int) -> Interrupted:
        error = Interrupted(number)
        self._error = weakref.ref(error)  # which lives as long as it unwinds the stack
        return error

    def _watch(self) -> None:
        handles = [self._wake] if self._tie is None else [self._wake, self._tie]
        while True:
            ready = select.select(handles, [], [], _AGAIN if self.number else None)[0]
            if self._wake in ready:
                for number in os.read(self._wake, 64):
                    if number in SIGNALS and not self._is_begun(number):
                        self._give_up(number)
            if self._tie in ready and not os.read(self._tie, 1):
                handles.remove(self._tie)
                threading.Thread(target=self._leave, name="orphan", daemon=True).start()
                os.kill(os.getpid(), signal.SIGTERM)
            if not ready and self.active and self.number and self._error() is None:
                self._begun = False  # a destructor or an import has swallowed it
                os.kill(os.getpid(), self.number)

    def _is_begun(self, number: int) -> bool:
        """Wait for the main thread; one that began to wait just before the signal is woken by another."""
        deadline = time.monotonic() + PATIENCE
        while not self._begun and time.monotonic() < deadline:
            time.sleep(_NUDGE)
            if not self._begun:
                signal.pthread_kill(self._main, number)
        return self._begun

    def _give_up(self, number: int) -> NoReturn:
        if not self.is_child:
            with contextlib.suppress(OSError):
                os.write(2, b"error: interrupted\n")
        os._exit(128 + number)

    def _leave(self) -> NoReturn:
        time.sleep(_ORPHAN)
        os._exit(128 + signal.SIGTERM)


_watches: list[_Watch] = []


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raise ``Interrupted`` in the block on SIGINT, SIGTERM and SIGHUP, and when the parent ends.

    A signal that the process ignores, as under nohup, stays ignored. Outside the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _watches:
        _watches.append(_Watch(_given_tie()))
    _watches[0].number, _watches[0].active = None, True
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _watches[0].end) for number in heeded}
    try:
        yield
    finally:
        _watches[0].active = False
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int | None:
    """Return the number of the signal that asked this program to end, None where none has."""
    return next((one.number for one in _watches), None)


def is_child() -> bool:
    """Whether this program was started with the options of ``tied``: its parent says how both ended."""
    return any(one.is_child for one in _watches)


def _given_tie() -> int | None:
    """Return the open end of the pipe that the parent has given, None where there is none."""
    text = os.environ.pop(_TIE, "")
    if not text.isdecimal():
        return None
    try:
        if not stat.S_ISFIFO(os.fstat(int(text)).st_mode):
            return None
        os.set_inheritable(int(text), False)
    except OSError:
        return None
    return int(text)


@contextlib.contextmanager
def tied() -> Iterator[dict[str, Any]]:
    """Yield options of ``subprocess.Popen`` for programs that end with this process and with the block.

    They find the modules that this process finds; see ``python``. They run in ``watched``.
    """
    read, write = os.pipe()
    root = str(pathlib.Path(nlsr_jax.__file__).parents[1])
    places = [path for path in sys.path if path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places if root in places else [root, *places])}
    try:
        yield {"env": {**env, _TIE: str(read)}, "pass_fds": (read,)}
    finally:
        os.close(write)
        os.close(read)


def run_tied(
    commands: Iterable[Sequence[str]], begun: Callable[[int, int], None] = lambda pid, number: None
) -> list[int]:
    """Run programs at once and wait for all; where this process is interrupted, they end first.

    Args:
      commands: of the programs, as ``python`` returns them.
      begun: called with the process id and the number of each, from 1.

    Returns:
      Their statuses.
    """
    running: list[subprocess.Popen] = []
    with tied() as options:
        try:
            for number, command in enumerate(commands, 1):
                running.append(subprocess.Popen(command, **options))
                begun(running[-1].pid, number)
            return [process.wait() for process in running]
        except BaseException:
            _end_all(running)
            raise


def _end_all(running: Sequence[subprocess.Popen]) -> None:
    """Ask processes to end, and do not wait for ever."""
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def python(module: str, *arguments: str) -> list[str]:
    """Return a command that runs a module, whatever lies in the working directory under its name."""
    return [sys.executable, "-P", "-m", module, *arguments]
