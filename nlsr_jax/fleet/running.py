"""Run the jobs of a fleet, each at its own risk, alongside other processes that do the same."""

import contextlib
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.output import describe_os_error
from nlsr_jax.files.scratch import recover
from nlsr_jax.fleet.folder import FleetFolder, State
from nlsr_jax.fleet.tasks import Task, check_made
from nlsr_jax.pipeline import realign_files
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.progress import Stages


class Outcome(NamedTuple):
    """What became of a task.

    Attributes:
      task: the task.
      error: why it failed, None where its output is there.
      seconds: that it took in this run; 0 where the output was there before.
    """

    task: Task
    error: str | None
    seconds: float


Told = Callable[[Outcome], None]
"""Called with every outcome."""


class Fleet:
    """Runs tasks with one base, one tokenizer, one set of calibration rows and one direction.

    Args:
      folder: of the fleet.
      attempt: name of this run of the fleet, which its processes share.
      overwrite: make outputs again that are not what is asked for.
      mesh: see ``realign_files``.
      shared: what the tasks have in common.
    """

    def __init__(
        self,
        folder: FleetFolder,
        attempt: str,
        *,
        overwrite: bool = False,
        mesh: Mesh | None = None,
        shared: Shared | None = None,
    ):
        self.folder, self.attempt, self._overwrite, self._mesh = folder, attempt, overwrite, mesh
        self._shared = shared or Shared(2)

    def run(self, tasks: Sequence[Task], told: Told = lambda outcome: None) -> list[Outcome]:
        """Run the tasks whose outputs are not there, and wait for those that another process is running.

        Args:
          tasks: the tasks.
          told: called with every outcome, as it comes.

        Returns:
          The outcomes in the order of the tasks.
        """
        found: dict[str, Outcome] = {}
        others = [task for task in tasks if not self._claimed(task, found, told, wait=False)]
        for task in others:
            self._claimed(task, found, told, wait=True)
        return [found[task.output] for task in tasks]

    def _claimed(self, task: Task, found: dict[str, Outcome], told: Told, *, wait: bool) -> bool:
        """Run a task unless another process does; returns whether none does."""
        with self.folder.claims.claim(task.output, wait=wait) as held:
            if held:
                found[task.output] = self._settle(task)
                told(found[task.output])
        return held

    def _settle(self, task: Task) -> Outcome:
        """Return what has become of a task, after it was run where that is needed."""
        place = self.folder.output(task.output)
        state = self.folder.state(task.output)
        recover(place)
        if state is not None and state.attempt == self.attempt and state.seconds is not None:
            return Outcome(task, state.error, state.seconds)
        if task.error is not None:
            return Outcome(task, task.error.with_flags(), 0.0)
        if place.exists():
            why = check_made(task, self.folder, self._shared)
            if why is None:
                return Outcome(task, None, 0.0)
            if not self._overwrite:
                overwrite = f"name another, or give {argument('overwrite')}"
                return Outcome(task, InputError(f"{place}: exists, and {why}; {overwrite}").with_flags(), 0.0)
        return self._run(task)

    def _run(self, task: Task) -> Outcome:
        state = State(task.asked(), self.attempt, self.folder.seal(task.output))
        started = time.perf_counter()
        try:
            self.folder.keep(task.output, state)
            self._realign(task)
            error = None
        except Exception as caught:
            error = _describe(caught)
        if error is not None and self.folder.output(task.output).exists():
            # Without locks another process may have been faster.
            error = error if check_made(task, self.folder, self._shared) else None
        seconds = round(time.perf_counter() - started, 3)
        self._keep(task, state._replace(error=error, seconds=seconds))
        return Outcome(task, error, seconds)

    def _realign(self, task: Task) -> dict[str, Any]:
        assert task.settings is not None
        options = {**task.options, "overwrite": self._overwrite, "mesh": self._mesh, "shared": self._shared}
        return realign_files(task.settings, self.folder.output(task.output), stages=Stages(show=False), **options)

    def _keep(self, task: Task, state: State) -> None:
        """Write down the end of a task; where the disk is full, that is not another failure."""
        with contextlib.suppress(InputError):
            self.folder.keep(task.output, state)


def _describe(error: Exception) -> str:
    """Return the line that says why a task failed; what is not the input's fault is shown whole, too."""
    if isinstance(error, InputError):
        return error.with_flags()
    if isinstance(error, OSError):
        return describe_os_error(error, error.filename or "file system")
    if isinstance(error, MemoryError):
        return "not enough memory for these inputs"
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]
