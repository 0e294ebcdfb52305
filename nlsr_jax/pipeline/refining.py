"""Refine the share of entries of a run by what the repaired model answers; see ``nlsr_jax.calibration.refinement``.

Half of the calibration rows make the masks, and prompts of the other half are asked; see
``nlsr_jax.calibration.asking``. The masks that are written are made from all rows.
"""

import dataclasses
import importlib.resources
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.asking import CannotRefine, Questions, make_questions, refine_by_answers
from nlsr_jax.calibration.refinement import TELLS, Bounds, Rates, Refined
from nlsr_jax.calibration.wording import LENGTH
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.settings import GAIN
from nlsr_jax.pipeline.evidence import CalibrationData, check_evidence
from nlsr_jax.pipeline.reference import Reference
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.sources import AdapterSource
from nlsr_jax.types import Tokenizer

_AT_ONCE = 96
"""Prompts in one batch of questions."""
_OVERCAUTIOUS = 0.2
_MOST_UNKNOWN = 0.1


class Repairs:
    """The repairs of a run with different shares, made from half of the calibration rows, and their answers.

    Args:
      reference: what entries are transplanted from.
      harmless: harmless prompts, as token ids.
      data: calibration rows and base, with the open adapter files.

    Raises:
      InputError: rows or a base that cannot be used, or too few prompts.
    """

    def __init__(self, reference: Reference, harmless: list[list[int]], data: CalibrationData):
        rows = [row[0] for row in data.rows.rows]
        self.questions = make_questions([one.ids[: one.start].tolist() for one in rows[1::2]], harmless)
        self.finetuned = data.sources.whole_finetuned()
        self._data, self._reference, self._beta = data, reference.whole(), reference.beta

    def ask(self, adapter: Adapter, source: AdapterSource) -> list[list[int]]:
        """Return the first tokens of the greedy answers to all questions.

        Args:
          adapter: that the base runs with.
          source: the file that it belongs to, which may carry other tensors.
        """
        from nlsr_jax.evaluation.responses import continue_tokens, end_tokens

        model, params = self._data.base_with(source)
        return continue_tokens(
            model,
            params,
            self.questions.all(),
            adapter=adapter,
            eos_id=end_tokens(model, self._data.tokenizer),
            max_new_tokens=LENGTH,
            max_length=self._data.settings.max_length,
            batch_size=_AT_ONCE,
        )

    def gradients(self) -> Any:
        """Return the gradients of the loss on safe answers, from the other half of the rows."""
        found = self._data.half_gradient(self.finetuned)
        check_evidence(found, self._data.settings.dtype, self._beta)
        return found

    def repaired(self, share: float, gradients: Any) -> Adapter:
        """Return the repair with a share of the entries."""
        fixed = self._data.sources.fixed
        masks = identify(
            self._reference,
            sparsity=1 - share,
            method=GAIN.method,
            granularity=GAIN.granularity,
            gradients=gradients,
            finetuned=self.finetuned,
            fixed={module: count for module, count in fixed.items() if module in self._reference.factors},
        )
        nothing = {m: jnp.zeros(leaf["a"].shape[0], bool) for m, leaf in self.finetuned.factors.items()}
        return correct(self.finetuned, self._reference, masks, nothing)


def refined(settings: Settings, bounds: Bounds, data: CalibrationData, run: Run) -> tuple[Settings, dict[str, Any]]:
    """Refine the sparsity of a run; returns the settings with it and what the record says of it.

    Args:
      settings: of the run, with the method of ``GAIN``; its sparsity is where the search begins.
      bounds: what is gone for.
      data: calibration rows and base, with the open adapter files.
      run: the context.

    Raises:
      InputError: a method that is not refined, or what cannot be read or measured.
    """
    if settings.stream:
        raise CannotRefine(f"with {argument('stream')} the base is read layer by layer and answers no prompts")
    harmless = _harmless(settings.harmless, settings.harmless_field, data, run)
    repairs = Repairs(Reference(data.sources, settings), harmless, data)
    sources = data.sources
    with run.stages("refine"):
        gradients = repairs.gradients()
        result = refine_by_answers(
            repairs.questions,
            repairs.ask(repairs.finetuned, sources.target),
            repairs.ask(sources.aligned.load(), sources.aligned),
            lambda share: repairs.repaired(share, gradients),
            lambda adapter: repairs.ask(adapter, sources.target),
            start=1 - settings.sparsity,
            bounds=bounds,
            say=run.stages.say,
        )
    changes: dict[str, Any] = {} if result.share is None else {"sparsity": 1 - result.share}
    if result.share == 0:
        changes = {"rule": "least_similar", "share": 0.0}
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
        return _notes(told)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("record: 'refinement' is not the description of a refinement") from error


def _notes(told: Mapping[str, Any]) -> list[str]:
    notes, aligned, finetuned = [], Rates(**told["aligned"]), Rates(**told["finetuned"])
    if aligned.harmless > _OVERCAUTIOUS:
        notes.append(
            f"the aligned model itself refuses {aligned.harmless:.0%} of the harmless prompts; a repair brings "
            "that back"
        )
    if told["share"] is None and not told["trials"]:
        notes.append(
            f"the aligned model refuses {aligned.harmful:.0%} of the calibration prompts, the fine-tuned one "
            f"{finetuned.harmful:.0%}: prompts that tell them apart by less than {TELLS:.0%} cannot refine the "
            "share; the settings are used as they are"
        )
    elif told["share"] is None:
        notes.append(
            "every share that was tried makes the model refuse more harmless prompts than the bound allows; the "
            "settings are used as they are"
        )
    elif told["share"] == 0:
        notes.append("the fine-tuned model refuses as many calibration prompts as it should: nothing is repaired")
    elif not told["reached"]:
        chosen = next(one for one in told["trials"] if one["share"] == told["share"])
        notes.append(
            f"the repaired model refuses {chosen['harmful']:.0%} of the calibration prompts; more entries would "
            "make it refuse harmless ones"
        )
    return notes


def _described(bounds: Bounds, questions: Questions, found: Refined) -> dict[str, Any]:
    return {
        "bounds": dataclasses.asdict(bounds),
        "prompts": {name: len(rows) for name, rows in questions._asdict().items()},
        "finetuned": found.finetuned._asdict(),
        "aligned": found.aligned._asdict(),
        "share": found.share,
        "reached": found.reached,
        "trials": [one._asdict() for one in found.trials],
    }


def _harmless(place: str | None, field: str | None, data: CalibrationData, run: Run) -> list[list[int]]:
    """Read and encode the harmless prompts: the user's, or those that this package has."""
    from nlsr_jax.data.asked import read_asked
    from nlsr_jax.data.encoding import encode_prompts
    from nlsr_jax.data.prompts import make_render

    template, longest = data.settings.template, data.settings.max_length - LENGTH
    if place is None:
        texts = own_prompts()
        if (unknown := _unknown_share(texts, data.tokenizer)) > _MOST_UNKNOWN:
            raise CannotRefine(
                f"the tokenizer does not know {unknown:.0%} of the tokens of everyday questions in English: give "
                f"harmless prompts with {argument('harmless')} to refine the share"
            )
        run.stages.say(f"no --harmless: {len(texts)} everyday questions in English are asked")
        render = make_render(template, data.tokenizer)
        texts = [render(text, "") for text in texts]
    else:
        texts = read_asked(place, data.tokenizer, template=template, field=field, note=run.stages.say)
    vocabulary = len(data.base_with(data.sources.target)[1]["embed"])
    ids = encode_prompts(texts, data.tokenizer, special_tokens=template != "chat", vocabulary=vocabulary)
    return [one for one in ids if len(one) <= longest]


def _unknown_share(texts: list[str], tokenizer: Tokenizer) -> float:
    """Return the share of the tokens of some texts that a tokenizer has no name for."""
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return ids.count(tokenizer.unk_token_id) / max(len(ids), 1)


def own_prompts() -> list[str]:
    """Return the harmless prompts that are asked where none are given."""
    text = (importlib.resources.files("nlsr_jax.data") / "harmless.txt").read_text("utf-8")
    return text.splitlines()
