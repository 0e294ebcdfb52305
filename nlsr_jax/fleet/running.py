"""Run the jobs of a fleet: one that fails does not stop the others, and several processes share the work."""

import collections
import contextlib
import functools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from nlsr_jax import hardware
from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.output import describe_os_error
from nlsr_jax.files.scratch import recover
from nlsr_jax.fleet.folder import FleetFolder, State
from nlsr_jax.fleet.tasks import Task, check_made
from nlsr_jax.pipeline import realign_files
from nlsr_jax.pipeline.checking import NotPassed
from nlsr_jax.pipeline.passes import Stopped, Together
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.progress import Stages


class Outcome(NamedTuple):
    """The outcome of a task.

    Attributes:
      task: the task.
      error: why there is no output; None if there is one.
      seconds: duration of the task in this run of the fleet; 0 if the output existed before.
      withheld: whether there is no output because it did not pass its check.
    """

    task: Task
    error: str | None = None
    seconds: float = 0.0
    withheld: bool = False


_SWITCH = 0.0005
"""Seconds after which a thread that wants the interpreter gets it. A thread whose pass has ended waits so long for
one that draws or writes, and gives the processor nothing to do meanwhile."""
Told = Callable[[Outcome], None]
"""Called with the outcome of every task that this process has settled, by one thread at a time."""


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Fleet:
    """Runs tasks with one base, one tokenizer, one set of calibration rows and one direction.

    Args:
      folder: of the fleet.
      attempt: name of this run of the fleet, which its processes share.
      overwrite: make outputs again that are not what is asked for.
      mesh: see ``realign_files``.
      together: tasks that run at the same time, in threads. On an accelerator they go through the base together.
    """

    def __init__(
        self,
        folder: FleetFolder,
        attempt: str,
        *,
        overwrite: bool = False,
        mesh: Mesh | None = None,
        together: int = 1,
    ):
        self.folder, self.attempt, self._overwrite, self._mesh = folder, attempt, overwrite, mesh
        self._together, self._telling = together, threading.Lock()
        self._passes = Together(together) if together > 1 and hardware.shares_passes() else None
        self._shared = Shared(2, self._passes)

    def run(self, tasks: Sequence[Task], told: Told = lambda outcome: None) -> list[Outcome]:
        """Run the tasks that have no output yet, and wait for those that another process is running.

        Args:
          tasks: the tasks.
          told: see ``Told``; called as soon as an outcome is known.

        Returns:
          The outcomes in the order of the tasks.
        """
        found: dict[str, Outcome] = {}
        free = functools.partial(self._claimed, found=found, told=told, wait=False)
        if self._together == 1:
            for task in tasks:
                free(task)
        else:
            self._run_lanes(tasks, free)
        for task in tasks:
            if task.output not in found:
                self._claimed(task, found, told, wait=True)
        return [found[task.output] for task in tasks]

    def _run_lanes(self, tasks: Sequence[Task], run: Callable[[Task], Any]) -> None:
        """Run tasks in threads, each of which takes the next task when it has ended one."""
        waiting, failures = collections.deque(tasks), list[BaseException]()

        def lane() -> None:
            try:
                with self._passes.taking_part() if self._passes else contextlib.nullcontext():
                    while waiting and not failures:
                        run(waiting.popleft())
            except Stopped:
                pass
            except BaseException as error:
                failures.append(error)

        lanes = [threading.Thread(target=lane, daemon=True) for _ in range(min(self._together, len(tasks)))]
        with _switching_often():
            for thread in lanes:
                thread.start()
            try:
                for thread in lanes:
                    thread.join()
            except BaseException:
                waiting.clear()
                if self._passes is not None:
                    self._passes.stop()
                raise
        if failures:
            raise failures[0]

    def _claimed(self, task: Task, found: dict[str, Outcome], told: Told, *, wait: bool) -> None:
        """Run a task unless another process does."""
        with self.folder.claims.claim(task.output, wait=wait) as held:
            if held:
                known = self._known(task)
                found[task.output] = known or self._settle(task)
                if known is None:
                    with self._telling:
                        told(found[task.output])

    def _known(self, task: Task) -> Outcome | None:
        """Return the outcome of a task that another process of this run has ended; None if none has."""
        state = self.folder.state(task.output)
        if state is None or state.attempt != self.attempt or state.seconds is None:
            return None
        return Outcome(task, state.error, state.seconds, state.withheld)

    def _settle(self, task: Task) -> Outcome:
        """Return the outcome of a task; run the task unless its output exists."""
        place = self.folder.output(task.output)
        recover(place)
        if task.error is not None:
            return Outcome(task, task.error.with_flags())
        if place.exists():
            why = check_made(task, self.folder, self._shared)
            if why is None:
                return Outcome(task)
            if not self._overwrite:
                overwrite = f"name another output, or give {argument('overwrite')}"
                return Outcome(task, InputError(f"{place}: exists, and {why}; {overwrite}").with_flags())
        return self._run(task)

    def _run(self, task: Task) -> Outcome:
        state = State(task.asked(), self.attempt, self.folder.seal(task.output))
        started, error, withheld = time.perf_counter(), None, False
        try:
            self.folder.keep(task.output, state)
            self._realign(task)
        except Exception as caught:
            error, withheld = _describe(caught), isinstance(caught, NotPassed)
            if self._is_made_by_another(task):
                error = None
        seconds = round(time.perf_counter() - started, 3)
        self._keep(task, state._replace(error=error, withheld=withheld, seconds=seconds))
        return Outcome(task, error, seconds, withheld)

    def _is_made_by_another(self, task: Task) -> bool:
        """Return whether another process has made the output meanwhile, on a file system without locks."""
        return self.folder.output(task.output).exists() and check_made(task, self.folder, self._shared) is None

    def _realign(self, task: Task) -> dict[str, Any]:
        assert task.settings is not None
        options = {**task.options, "overwrite": self._overwrite, "mesh": self._mesh, "shared": self._shared}
        return realign_files(task.settings, self.folder.output(task.output), stages=Stages(show=False), **options)

    def _keep(self, task: Task, state: State) -> None:
        """Write the state of a task that has ended; a full disk is not another failure."""
        with contextlib.suppress(InputError):
            self.folder.keep(task.output, state)


def _describe(error: Exception) -> str:
    """Return the line that says why a task has no output; print the traceback of an unexpected error."""
    if isinstance(error, NotPassed):
        return str(error)
    if isinstance(error, InputError):
        return error.with_flags()
    if isinstance(error, OSError):
        return describe_os_error(error, error.filename or "file system")
    if isinstance(error, MemoryError):
        return "not enough memory for these inputs"
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]
