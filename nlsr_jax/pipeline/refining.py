"""Refine the share of entries of a run by what the repaired model answers; see ``nlsr_jax.calibration.refinement``.

Half of the calibration rows make the masks, and prompts of the other half are asked; see
``nlsr_jax.calibration.asking``. The masks that are written are made from all rows.
"""

import dataclasses
import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule
from nlsr_jax.calibration.asking import CannotRefine, Questions, TaskRespondent, make_questions, refine_by_answers
from nlsr_jax.calibration.doubts import doubts
from nlsr_jax.calibration.refinement import Bounds, Rates, Refined, Trial, fineness, first_share
from nlsr_jax.calibration.wording import LENGTH, WHOLE, Answer
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identifier
from nlsr_jax.nlsr.settings import GAIN, REFINED_STRENGTH
from nlsr_jax.pipeline.answering import aligned_respondent, respondent
from nlsr_jax.pipeline.evidence import CalibrationData, check_evidence
from nlsr_jax.pipeline.passes import Passes
from nlsr_jax.pipeline.reference import Reference
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.shared import stamp
from nlsr_jax.pipeline.templating import is_rendered
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.evaluation.respondent import ModelRespondent

_MOST_UNKNOWN = 0.1


class Repairs:
    """The repairs of a run with different shares, made from half of the calibration rows, and their answers.

    Args:
      reference: what entries are transplanted from.
      harmless: harmless prompts, as token ids.
      keep: prompts of the customer's task, as token ids; None without them.
      data: calibration rows and base, with the open adapter files.
      strength: of the correction; see ``correct``.

    Raises:
      InputError: rows or a base that cannot be used, or too few prompts.
    """

    def __init__(
        self,
        reference: Reference,
        harmless: list[list[int]],
        keep: list[list[int]] | None,
        data: CalibrationData,
        strength: float,
    ):
        rows = [row[0] for row in data.rows.rows]
        self.row_answers = [row.response for row in rows]
        self.questions = make_questions([row.prompt for row in rows[1::2]], harmless, keep)
        self.finetuned = data.sources.whole_finetuned()
        self._data, self._reference, self._beta = data, data.whole(reference, keep=True), reference.beta
        self.strength = strength

    def asked(self, adapter: Adapter) -> TaskRespondent:
        """Return the base with the fine-tuned adapter or a repair of it, asked beside those of other runs."""
        found = respondent(self._data, adapter, self._data.sources.target, LENGTH)
        return _Beside(found, self._data.run.shared.passes)

    def repaired(self, share: float) -> Adapter:
        """Return the repair with a share of the entries."""
        none: PerModule = {m: jnp.zeros(leaf["a"].shape[0], bool) for m, leaf in self.finetuned.factors.items()}
        return correct(self.finetuned, self._reference, self._masks(1 - share), none, strength=self.strength)

    @functools.cached_property
    def _masks(self) -> Callable[[float], Any]:
        """The function that makes masks, with the gradient of the loss on safe answers of the other half."""
        gradients, fixed = self._data.half_gradient(self.finetuned), self._data.sources.fixed
        check_evidence(gradients, self._data.settings.dtype, self._beta)
        return identifier(
            self._reference,
            method=GAIN.method,
            granularity=GAIN.granularity,
            gradients=gradients,
            finetuned=self.finetuned,
            fixed={module: count for module, count in fixed.items() if module in self._reference.factors},
        )


class _Beside(NamedTuple):
    """A respondent whose answers may be made in one pass with those of other runs.

    Attributes:
      respondent: the respondent.
      passes: makes the pass.
    """

    respondent: "ModelRespondent"
    passes: Passes

    def answers(self, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """See ``Respondent``."""
        return self.passes.answers(self.respondent, prompts)

    def answers_up_to(self, length: int, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """See ``TaskRespondent``; other runs have prompts of other tasks."""
        return self.respondent.answers_up_to(length, prompts)

    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> Sequence[float]:
        """See ``TaskRespondent``."""
        return self.respondent.likelihoods(rows)

    def likelihood(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> float:
        """See ``Respondent``."""
        return self.respondent.likelihood(rows)


def refined(settings: Settings, bounds: Bounds, data: CalibrationData, run: Run) -> tuple[Settings, dict[str, Any]]:
    """Refine the sparsity of a run; returns the settings with it and what the record says of it.

    Args:
      settings: of the run, with the method of ``GAIN``; its sparsity is that of a repair of strength 1.
      bounds: what is gone for.
      data: calibration rows and base, with the open adapter files.
      run: the context.

    Raises:
      InputError: a method that is not refined, or what cannot be read or measured.
    """
    if settings.stream:
        raise CannotRefine(f"with {argument('stream')} the base is read layer by layer and answers no prompts")
    harmless, keep = _prompts("harmless", settings.harmless, settings.harmless_field, LENGTH, data, run), None
    if settings.keep is not None:
        keep = _prompts("keep", settings.keep, settings.keep_field, WHOLE, data, run)
    alone = settings.aligned is None and settings.pretrained is None
    strength = REFINED_STRENGTH if alone and settings.strength is None else settings.given_strength
    repairs = Repairs(Reference(data.sources, settings), harmless, keep, data, strength)

    def untold() -> float:
        data.read_rows()
        repairs.strength = settings.given_strength
        return 1 - settings.sparsity

    with run.stages("refine"):
        result = refine_by_answers(
            repairs.questions,
            repairs.asked(repairs.finetuned),
            aligned_respondent(data, LENGTH),
            lambda share: repairs.asked(repairs.repaired(share)),
            start=first_share(1 - settings.sparsity, strength),
            row_answers=repairs.row_answers,
            bounds=bounds,
            untold=untold,
            say=run.stages.say,
            fine=fineness(strength),
        )
    changes: dict[str, Any] = {"strength": repairs.strength}
    changes |= {} if result.share is None else {"sparsity": 1 - result.share}
    if result.share == 0:
        changes = {"rule": "least_similar", "share": 0.0, "strength": repairs.strength}
    told = _described(bounds, repairs.questions, result)
    return dataclasses.replace(settings, **changes), told


def note_refinement(told: Mapping[str, Any]) -> list[str]:
    """Say what is doubtful of a refinement.

    Args:
      told: what the record says of it.

    Raises:
      InputError: a description, out of a record, that no refinement has.
    """
    try:
        return doubts(_read(told))
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise InputError("record: 'refinement' is not the description of a refinement") from error


def _read(told: Mapping[str, Any]) -> Refined:
    """Return the refinement that a record describes."""
    before, safe = Rates(**told["finetuned"]), Rates(**told["aligned"])
    trials = tuple(Trial(**one) for one in told["trials"])
    more = told.get("recovered"), told.get("far", False), told.get("held", False)
    return Refined(told["share"], told["reached"], before, safe, trials, *more)


def _described(bounds: Bounds, questions: Questions, found: Refined) -> dict[str, Any]:
    """Return what the record says of a refinement; without prompts of the task nothing of them."""
    keeps = {"held": found.held} if questions.keep else {}
    return {
        "bounds": {name: value for name, value in dataclasses.asdict(bounds).items() if keeps or name != "kept"},
        "prompts": {name: len(rows) for name, rows in questions._asdict().items() if keeps or name != "keep"},
        "finetuned": found.finetuned.told(),
        "aligned": found.aligned.told(),
        "share": found.share,
        "reached": found.reached,
        "recovered": found.recovered,
        "trials": [{"share": one.share, **one.rates.told()} for one in found.trials],
        "far": found.far or False,
        **keeps,
    }


def _prompts(
    name: str, place: str | None, field: str | None, length: int, data: CalibrationData, run: Run
) -> list[list[int]]:
    """Return the prompts of a flag as token ids: the user's, or the harmless ones that this package has.

    Those that leave no room for an answer of so many tokens are left out.
    """
    settings, vocabulary = data.settings, len(data.base_with(data.sources.target)[1]["embed"])
    key = (stamp(place), field, stamp(settings.base), settings.template, settings.max_length, vocabulary)
    read = run.shared.once(
        f"{name} prompts", key, lambda: _read_prompts(f"{name}_field", place, field, vocabulary, data, run)
    )
    return [one for one in read if len(one) <= settings.max_length - length]


def _read_prompts(
    argued: str, place: str | None, field: str | None, vocabulary: int, data: CalibrationData, run: Run
) -> list[list[int]]:
    from nlsr_jax.data.asked import read_asked
    from nlsr_jax.data.encoding import encode_prompts
    from nlsr_jax.data.prompts import make_render
    from nlsr_jax.data.templates import CHAT, NONE, renders_turns

    template = data.settings.template or NONE
    if place is None:
        texts = own_prompts()
        if (unknown := _unknown_share(texts, data.tokenizer)) > _MOST_UNKNOWN:
            raise CannotRefine(
                f"the tokenizer does not know {unknown:.0%} of the tokens of everyday questions in English: give "
                f"harmless prompts with {argument('harmless')} to refine the share"
            )
        run.stages.say(f"no --harmless: {len(texts)} everyday questions in English are asked")
        if template == NONE and is_rendered(str(data.settings.calibration), data.tokenizer):
            template = CHAT  # as the calibration rows are
        render = make_render(template, data.tokenizer)
        texts = [render(text, "") for text in texts]
    else:
        options: dict[str, Any] = {"template": template, "field": field, "field_argument": argued}
        texts = read_asked(place, data.tokenizer, note=run.stages.say, **options)
    return encode_prompts(texts, data.tokenizer, special_tokens=not renders_turns(template), vocabulary=vocabulary)


def _unknown_share(texts: list[str], tokenizer: Tokenizer) -> float:
    """Return the share of the tokens of some texts that a tokenizer has no name for."""
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return ids.count(tokenizer.unk_token_id) / max(len(ids), 1)


def own_prompts() -> list[str]:
    """Return the harmless prompts that are asked where none are given."""
    text = (importlib.resources.files("nlsr_jax.data") / "harmless.txt").read_text("utf-8")
    return text.splitlines()
