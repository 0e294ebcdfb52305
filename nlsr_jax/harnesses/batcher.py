"""Requests that arrive one by one, answered in batches by a thread.

A harness that asks many questions at once waits for each in a coroutine of its own. The thread takes all that have
arrived, in batches of requests with the same settings.
"""

import concurrent.futures
import queue
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple):
    """A request that has not been answered."""

    settings: Hashable
    item: Any
    future: concurrent.futures.Future


class Batcher(Generic[Item, Result]):
    """Answers requests in batches.

    Args:
      answer: takes settings and the items of a batch; returns one result per item.
      size: most items of a batch.
      patience: seconds without a new request after which a smaller batch is answered.
    """

    def __init__(
        self, answer: Callable[[Any, Sequence[Item]], Sequence[Result]], *, size: int, patience: float = 0.1
    ):
        self._answer, self._size, self._patience = answer, size, patience
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, settings: Hashable, item: Item) -> "concurrent.futures.Future[Result]":
        """Ask for the answer to one item.

        Args:
          settings: only items with equal settings share a batch.
          item: the request.

        Returns:
          A future of the result; it raises what ``answer`` has raised for its batch.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="batches", daemon=True)
                self._thread.start()
        waiting = _Waiting(settings, item, concurrent.futures.Future())
        self._queue.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Answer what is waiting, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _serve(self) -> None:
        waiting: list[_Waiting] = []
        going = True
        while going or waiting:
            going = self._gather(waiting) if going else False
            if waiting:
                settings = waiting[0].settings
                batch = [one for one in waiting if one.settings == settings][: self._size]
                waiting = [one for one in waiting if not any(one is other for other in batch)]
                self._settle(settings, batch)

    def _gather(self, waiting: list[_Waiting]) -> bool:
        """Add what arrives until a batch is full or nothing new arrives; False where the end was asked for."""
        while True:
            try:
                found = self._queue.get(timeout=self._patience if waiting else None)
            except queue.Empty:
                return True
            if found is None:
                return False
            waiting.append(found)
            if sum(one.settings == waiting[0].settings for one in waiting) >= self._size:
                return True

    def _settle(self, settings: Hashable, batch: Sequence[_Waiting]) -> None:
        try:
            results = self._answer(settings, [one.item for one in batch])
        except Exception as error:
            for one in batch:
                one.future.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            one.future.set_result(result)
