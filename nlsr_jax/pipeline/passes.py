"""Passes through the base: a run makes its own, or runs in several threads make one together.

A pass together reads the base's weights once for all adapters, and its products are large where each alone is
small. Its results are those of separate passes up to rounding.
"""

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax

from nlsr_jax.adapter import Adapter

if TYPE_CHECKING:
    from nlsr_jax.calibration.loss import LossSums
    from nlsr_jax.evaluation.respondent import ModelRespondent

Answers = list[list[int]]


class Passes:
    """Passes of one run at a time."""

    def sum_loss_gradients(
        self, model: Any, params: Any, adapter: Adapter, batches: Iterable, so_far: "LossSums | None" = None
    ) -> "LossSums":
        """See ``nlsr_jax.calibration.loss.sum_loss_gradients``."""
        from nlsr_jax.calibration.loss import sum_loss_gradients

        return sum_loss_gradients(model, params, adapter, batches, so_far)

    def answers(self, respondent: "ModelRespondent", prompts: Sequence[Sequence[int]]) -> Answers:
        """See ``ModelRespondent.answers``."""
        return respondent.answers(prompts)


class _Request:
    """What a run waits for.

    Args:
      key: requests of one key can be served together.
      given: what is this run's own.
      serve: makes the results of several such requests from what is their own.
      alone: makes the result of this one.
    """

    def __init__(
        self, key: Hashable, given: Any, serve: Callable[[list[Any]], list[Any]], alone: Callable[[], Any]
    ):
        self.key, self.given, self.serve, self.alone = key, given, serve, alone
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class Stopped(BaseException):
    """Ends a run in a thread whose fleet was interrupted."""


class Together(Passes):
    """Passes of runs in several threads: what several ask for at the same time is made by one pass.

    A pass begins when every run that takes part waits for one. Its adapters are filled up with copies to a fixed
    number, so that the program, and with it the rounding, does not depend on how many ask.

    Args:
      count: adapters in a pass.
    """

    def __init__(self, count: int):
        self._count, self._runs, self._stopped = count, 0, False
        self._waiting: list[_Request] = []
        self._turn = threading.Condition()

    @contextlib.contextmanager
    def taking_part(self) -> Iterator[None]:
        """Count the thread of the block as one that others wait for."""
        with self._turn:
            self._runs += 1
        try:
            yield
        finally:
            with self._turn:
                self._runs -= 1
                self._go_on()

    def stop(self) -> None:
        """End all runs at their next pass."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def sum_loss_gradients(
        self, model: Any, params: Any, adapter: Adapter, batches: Iterable, so_far: "LossSums | None" = None
    ) -> "LossSums":
        """See ``Passes``."""
        from nlsr_jax.calibration.loss import sum_each_gradient
        from nlsr_jax.models.streamed import StreamedParams
        from nlsr_jax.training.identity import digest

        if isinstance(params, StreamedParams) or model.layout is not None:
            return super().sum_loss_gradients(model, params, adapter, batches, so_far)
        rows = list(batches)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), adapter)
        key = ("gradients", id(params), repr(shapes), so_far is None, digest(rows))

        def serve(given: list[tuple]) -> list[Any]:
            adapters, sums = zip(*given, strict=True)
            return sum_each_gradient(model, params, adapters, rows, None if so_far is None else sums)

        alone = functools.partial(super().sum_loss_gradients, model, params, adapter, rows, so_far)
        return self._ask(_Request(key, (adapter, so_far), serve, alone))

    def answers(self, respondent: "ModelRespondent", prompts: Sequence[Sequence[int]]) -> Answers:
        """See ``Passes``."""
        if respondent.adapter is None or respondent.model.layout is not None:
            return super().answers(respondent, prompts)
        options = respondent[4:]
        key = ("answers", id(respondent.params), options, repr(prompts))
        alone = functools.partial(super().answers, respondent, prompts)
        return self._ask(_Request(key, respondent.adapter, lambda each: respondent.each(each, prompts), alone))

    def _ask(self, request: _Request) -> Any:
        with self._turn:
            self._waiting.append(request)
            self._go_on()
            self._turn.wait_for(lambda: request.done or self._stopped)
        if not request.done:
            raise Stopped
        if request.error is not None:
            raise request.error
        return request.result

    def _go_on(self) -> None:
        """Once every run waits for a pass, make the pass that most of them ask for."""
        while self._waiting and len(self._waiting) >= self._runs and not self._stopped:
            key, _ = collections.Counter(one.key for one in self._waiting).most_common(1)[0]
            group = [one for one in self._waiting if one.key == key][: self._count]
            self._waiting = [one for one in self._waiting if one not in group]
            self._serve(group)
            self._turn.notify_all()

    def _serve(self, group: list[_Request]) -> None:
        """Serve requests of one key; if that fails, serve each by itself, and give each its own error."""
        filled = [one.given for one in group] + [group[0].given] * (self._count - len(group))
        try:
            results = group[0].serve(filled)
        except Exception:
            for one in group:
                try:
                    one.result = one.alone()
                except Exception as error:
                    one.error = error
        else:
            for one, result in zip(group, results, strict=False):
                one.result = result
        for one in group:
            one.done = True
