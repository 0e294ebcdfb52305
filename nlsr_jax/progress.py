"""Progress of a run on standard error: a line for each stage, bars on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator

_SECONDS_BETWEEN_LINES = 15.0

Advance = Callable[[int, str], None]
"""Reports that so many steps are done, with a note on the latest one; an empty note prints no line."""


class Stages:
    """Print what a run is doing and keep the seconds of each stage.

    Args:
      show: print to standard error; False for silent use from Python.
    """

    def __init__(self, show: bool = True):
        self.seconds: dict[str, float] = {}
        self._console = None
        if show:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as the stage ``name``."""
        start = time.perf_counter()
        if self._console and self._console.is_terminal:
            with self._console.status(name):
                yield
        else:
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)
        self.say(f"{name}: {self.seconds[name]:.1f} s")

    def say(self, text: str) -> None:
        """Print one line unchanged."""
        if self._console:
            self._console.print(text, markup=False)

    def track(self, items: Iterable, description: str, total: int) -> Iterator:
        """Yield the items; a terminal shows a bar with the time left, anything else shows nothing."""
        with self._bar(description, total, 0, transient=True) as move:
            for number, item in enumerate(items, 1):
                yield item
                if move:
                    move(number, "")

    @contextlib.contextmanager
    def steps(self, description: str, total: int, first: int = 0) -> Iterator[Advance]:
        """Show the steps of the block: a bar on a terminal, else a line every 15 seconds and at the end.

        Args:
          description: what the steps do.
          total: number of steps.
          first: steps done before, by an earlier run.

        Yields:
          An ``Advance``.
        """
        if first:
            self.say(f"{description}: goes on after step {first} of {total}")
        start = last = time.perf_counter()

        def print_line(step: int, note: str) -> None:
            nonlocal last
            now = time.perf_counter()
            if not note or (now - last < _SECONDS_BETWEEN_LINES and step < total):
                return
            last = now
            left = (now - start) / max(step - first, 1) * (total - step)
            self.say(f"{description}: step {step} of {total}, {note}, {left:.0f} s left")

        with self._bar(description, total, first) as move:
            yield move or print_line

    @contextlib.contextmanager
    def _bar(
        self, description: str, total: int, first: int, *, transient: bool = False
    ) -> Iterator[Advance | None]:
        """Yield what moves a bar; None where standard error is no terminal. A transient bar ends with the block."""
        if not self._console or not sys.stderr.isatty():
            yield None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        note = TextColumn("{task.fields[note]}", markup=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
        with Progress(*columns, console=self._console, transient=transient) as bar:
            task = bar.add_task(description, total=total, completed=first, note="")

            def move(step: int, note: str) -> None:
                bar.update(task, completed=step, note=note or bar.tasks[0].fields["note"])

            yield move
