"""The models of a run as they are asked: the base with the fine-tuned adapter, with a repair, or aligned."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.asking import Respondent
from nlsr_jax.calibration.wording import Answer
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import EvidenceSettings
from nlsr_jax.pipeline.shared import Shared, stamp
from nlsr_jax.pipeline.sources import AdapterSource, Sources
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.calibration.streamed_answers import StreamedAnswers
    from nlsr_jax.evaluation.respondent import ModelRespondent

_AT_ONCE = 96
"""Prompts in one batch of questions."""


class Opened(Protocol):
    """What a model is asked with; see ``nlsr_jax.pipeline.evidence.CalibrationData``."""

    settings: EvidenceSettings
    sources: Sources
    run: Run

    @property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer."""
        ...

    def base_with(self, file: AdapterSource) -> tuple:
        """Return ``(model, params)`` with what an adapter's file carries besides its factors."""
        ...


def respondent(data: Opened, adapter: Adapter, source: AdapterSource, length: int) -> "ModelRespondent":
    """Return the base with an adapter, ready to be asked.

    Args:
      data: base and tokenizer.
      adapter: that the base runs with.
      source: the file that it belongs to, which may carry other tensors.
      length: most tokens of an answer.
    """
    from nlsr_jax.evaluation.respondent import ModelRespondent

    model, params = data.base_with(source)
    return ModelRespondent(model, params, data.tokenizer, adapter, length, data.settings.max_length, _AT_ONCE)


def aligned_respondent(data: Opened, length: int) -> Respondent:
    """Return the aligned model, whose answers do not depend on what was fine-tuned on it.

    Of a lifted adapter the ranks alone count: where the aligned model has no update, B is zero. A streamed base
    answers, and tells no likelihood.

    Args:
      data: base, tokenizer and adapters.
      length: most tokens of an answer.
    """
    settings, source, run = data.settings, data.sources.aligned, data.run
    shapes = tuple((m, leaf["a"].shape) for m, leaf in sorted(source.shapes().factors.items()))
    key = (stamp(settings.base), stamp(settings.aligned), settings.dtype, settings.max_length, shapes, length)
    open_ = _streamed if settings.stream else respondent
    return _Remembered(lambda: open_(data, source.load(), source, length), run.shared, (*key, run.mesh))


def _streamed(data: Opened, adapter: Adapter, source: AdapterSource, length: int) -> "StreamedAnswers":
    """Return a streamed base with an adapter, ready to be asked for a few tokens."""
    from nlsr_jax.calibration.streamed_answers import StreamedAnswers
    from nlsr_jax.evaluation.responses import end_tokens

    model, params = data.base_with(source)
    ends = end_tokens(model, data.tokenizer)
    return StreamedAnswers(model, params, adapter, ends, length, data.settings.batch_size)


class _Remembered(NamedTuple):
    """A respondent whose replies the runs of a process share.

    Attributes:
      open: returns the respondent.
      shared: keeps the replies.
      key: all that decides them beside what is asked.
    """

    open: Callable[[], Any]
    shared: Shared
    key: tuple[Any, ...]

    def answers(self, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """See ``Respondent``."""
        key = (*self.key, repr(prompts))
        return self.shared.once("aligned answers", key, lambda: self.open().answers(prompts))

    def likelihood(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> float:
        """See ``Respondent``."""
        key = (*self.key, repr(rows))
        return self.shared.once("aligned likelihood", key, lambda: self.open().likelihood(rows))
