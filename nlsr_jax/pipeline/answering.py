"""Ask the models of a run: the base with the fine-tuned adapter, with a repair, or with the aligned adapter."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.asking import Respondent
from nlsr_jax.calibration.own_answers import choose_rows, with_own_answers
from nlsr_jax.calibration.wording import BEGINNING, Answer
from nlsr_jax.data.examples import Encoded
from nlsr_jax.nlsr.settings import OWN, ROWS
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import EvidenceSettings
from nlsr_jax.pipeline.shared import Shared, stamp
from nlsr_jax.pipeline.sources import AdapterSource, Sources
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.calibration.streamed_answers import StreamedAnswers
    from nlsr_jax.evaluation.respondent import ModelRespondent

_AT_ONCE = 128
"""Most prompts in one batch of questions: all of either kind."""


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

    def finetuned_loss(self, rows: list[tuple[Encoded, ...]], batches: list[tuple]) -> float:
        """Return the mean loss of the fine-tuned model on batches of rows."""
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

    Of a lifted adapter the ranks alone count: where the aligned model has no update, B is zero. A streamed base has
    ``answers`` but no ``likelihood``.

    Args:
      data: base, tokenizer and adapters.
      length: most tokens of an answer.
    """
    settings, source = data.settings, data.sources.aligned
    key = (*_aligned_key(data), settings.max_length)
    open_ = _streamed if settings.stream else respondent
    return _Remembered(lambda: open_(data, source.load(), source, length), data.run.shared, key, length)


def _aligned_key(data: Opened) -> tuple:
    """Return what decides the numbers of the aligned model, which the runs of a process share."""
    settings, source = data.settings, data.sources.aligned
    shapes = tuple((m, leaf["a"].shape) for m, leaf in sorted(source.shapes().factors.items()))
    return stamp(settings.base), stamp(settings.aligned), settings.dtype, settings.stream, shapes, data.run.mesh


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
      length: most tokens of an answer.
    """

    open: Callable[[], Any]
    shared: Shared
    key: tuple[Any, ...]
    length: int

    def answers(self, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """See ``Respondent``."""
        key = (*self.key, repr(prompts))
        return self.shared.once(
            f"aligned answers of {self.length} tokens", key, lambda: self.open().answers(prompts)
        )

    def likelihood(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> float:
        """See ``Respondent``."""
        key = (*self.key, repr(rows))
        return self.shared.once("aligned likelihood", key, lambda: self.open().likelihood(rows))


def safe_rows(data: Opened, rows: list[tuple[Encoded, ...]]) -> list[tuple[Encoded, ...]]:
    """Return calibration rows with the answers that the settings ask for; see ``choose_rows``.

    Args:
      data: base, tokenizer and adapters.
      rows: as they were read.

    Returns:
      ``rows`` themselves, or others with the aligned model's own answers.
    """
    settings = data.settings
    if settings.answers == ROWS or not settings.needs_finetuned:
        return rows

    def own() -> list[tuple[Encoded, ...]]:
        return with_own_answers(rows, aligned_respondent(data, BEGINNING))

    with data.run.stages("answer"):
        return own() if settings.answers == OWN else choose_rows(rows, own, lambda given: _losses(data, given))


def _losses(data: Opened, rows: list[tuple[Encoded, ...]]) -> tuple[float, float]:
    """Return the mean losses of the fine-tuned and of the aligned model on the answers of every second row."""
    from nlsr_jax.calibration.loss import collect_loss
    from nlsr_jax.data.calibration import batches
    from nlsr_jax.training.identity import digest

    settings, sources, shared = data.settings, data.sources, data.run.shared
    read = list(batches(rows[::2], settings.batch_size, settings.max_length, among=rows))

    def aligned() -> float:
        model, params = data.base_with(sources.aligned)
        return float(collect_loss(model, params, sources.aligned.load(), read))

    before = shared.once("aligned loss", (*_aligned_key(data), digest(read)), aligned)
    return data.finetuned_loss(rows, read), before
