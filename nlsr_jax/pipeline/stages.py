"""Stages of a run: a line each on standard error, with seconds, and progress bars inside."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator


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
        """Print one line as it is."""
        if self._console:
            self._console.print(text, markup=False)

    def track(self, items: Iterable, description: str, total: int) -> Iterator:
        """Yield the items behind a progress bar (on a terminal) with the time left."""
        if not self._console or not sys.stderr.isatty():
            yield from items
            return
        from rich.progress import track

        yield from track(items, description, total=total, console=self._console, transient=True)
