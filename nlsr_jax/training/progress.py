"""Progress of a training run: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Any

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Show steps, loss, tokens per second and the time left.

    Args:
      description: what is being trained.
      total: number of steps.
      first: steps done already.
      show: False for silence.
    """

    def __init__(self, description: str, total: int, first: int = 0, *, show: bool = True):
        self._description, self._total, self._first = description, total, first
        self._show, self._bar = show, None
        self._start = self._last = time.perf_counter()
        self._tokens = 0
        if show and first:
            print(f"{description}: goes on after step {first} of {total}", file=sys.stderr)
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(description, total=total, completed=first, note="")

    @property
    def rate(self) -> float:
        """Tokens per second so far."""
        return self._tokens / max(time.perf_counter() - self._start, 1e-9)

    def advance(self, step: int, tokens: int, loss: float | None = None) -> None:
        """Say that ``step`` steps are done, the latest of which read ``tokens`` tokens."""
        self._tokens += tokens
        if self._bar is not None:
            note: dict[str, Any] = {} if loss is None else {"note": f"loss {loss:.4f}, {self.rate:,.0f} tokens/s"}
            self._bar.update(self._task, completed=step, **note)
            return
        now = time.perf_counter()
        if not self._show or loss is None or (now - self._last < _SECONDS_BETWEEN_LINES and step < self._total):
            return
        self._last = now
        left = (now - self._start) / max(step - self._first, 1) * (self._total - step)
        print(
            f"{self._description}: step {step} of {self._total}, loss {loss:.4f}, {self.rate:,.0f} tokens/s, "
            f"{left:.0f} s left",
            file=sys.stderr,
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
