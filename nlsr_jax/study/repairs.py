"""Realignment as one setting of the laboratory: everything that NLSR takes, and the draws it averages over."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.capture import OBJECTIVES as GRADIENT_OBJECTIVES
from nlsr_jax.calibration.capture import collect_gradients, collect_statistics
from nlsr_jax.calibration.loss import collect_loss_gradient
from nlsr_jax.calibration.search import Automatic
from nlsr_jax.data.batching import BatchShape, batches_in_order, pack
from nlsr_jax.data.encoding import encode
from nlsr_jax.data.examples import Encoded, Example, Preference
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.basis import common_basis, turned
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.realign import Realigned, realign
from nlsr_jax.nlsr.settings import (
    GAIN,
    NEEDS_FINETUNED,
    NEEDS_STATISTICS,
    Amplification,
    AutomaticSettings,
    Identification,
    MethodSettings,
)
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.random_streams import stream
from nlsr_jax.study.stages import Base
from nlsr_jax.types import Masks


@dataclasses.dataclass(frozen=True)
class RepairSettings(MethodSettings):
    """One way to realign, by default the published one, and what a study asks beside.

    Attributes:
      turned: turn the fine-tuned adapter's rank axis at random first, as if it shared no lineage.
      draws: how many draws of the rule "probability" a result is the mean of.
    """

    turned: bool = False
    draws: int = 1


PUBLISHED = RepairSettings(draws=5)
"""``nlsr_jax.PUBLISHED``, as the mean over five draws."""

FIXED = RepairSettings(**(dataclasses.asdict(GAIN) | {"sparsity": 0.995}))
"""The half per cent of all entries whose transplant takes most off the loss on safe answers; no module is left out,
nothing is drawn."""


RECOMMENDED = AutomaticSettings()
"""The amplification and the sparsity of ``FIXED`` chosen for every adapter; see ``choose_settings``. The aim was
chosen on seeds of the toy world that no table reports."""


def describe(settings: RepairSettings) -> dict[str, Any]:
    """Return the settings by name, as rows, pages and the names of cells hold them.

    ``rank`` is left out where it is not set: so what is kept from before it was a setting keeps its name.
    """
    found = dataclasses.asdict(settings)
    return found if settings.rank is not None else {name: found[name] for name in found if name != "rank"}


def chosen_settings(found: Automatic) -> RepairSettings:
    """Return the settings that were chosen; where nothing needs repair, some that leave every module alone."""
    if not found.chosen.share:
        return dataclasses.replace(FIXED, rule="least_similar", share=0.0)
    return dataclasses.replace(FIXED, beta=found.chosen.beta, sparsity=1 - found.chosen.share)


def changes(settings: RepairSettings, published: RepairSettings = PUBLISHED) -> dict[str, Any]:
    """Return what differs from the published settings, as a cell takes it."""
    before = dataclasses.asdict(published)
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != before[name]}


class Evidence(NamedTuple):
    """What identification knows of a reference adapter; None for what was not asked for."""

    statistics: Statistics | None
    gradients: Any


def calibration_batches(
    base: Base, rows: Sequence[Example] | Sequence[Preference], batch_size: int, max_length: int
) -> list[tuple]:
    """Return ``(tokens, response_mask)`` batches of calibration rows; of pairs, those of both answers in turn."""
    return encoded_batches(encoded_rows(base, rows, max_length), batch_size, max_length)


def encoded_rows(
    base: Base, rows: Sequence[Example] | Sequence[Preference], max_length: int
) -> list[tuple[Encoded, ...]]:
    """Return the token ids of calibration rows; of pairs, those of both answers."""
    return encode(rows, base.tokenizer, max_length=max_length, special_tokens=base.special_tokens).rows


def encoded_batches(rows: Sequence[tuple[Encoded, ...]], batch_size: int, max_length: int) -> list[tuple]:
    """Return ``(tokens, response_mask)`` batches of encoded rows; see ``calibration_batches``."""
    packed, shape = pack(rows), BatchShape(batch_size, max_length, one_length=True)
    order = np.arange(len(rows))
    return [
        tuple(part for text in batch.texts for part in (text.tokens, text.response_mask))
        for batch in batches_in_order(packed, order, shape)
    ]


def gather_evidence(
    base: Base, reference: Adapter, batches: Iterable, method: str, finetuned: Adapter | None = None
) -> Evidence:
    """Run the reference (for ``gain`` the fine-tuned adapter) over calibration batches for what a method needs.

    Preference SNIP takes batches of pairs; see ``calibration_batches``.
    """
    statistics = gradients = None
    if method in NEEDS_STATISTICS:
        statistics = collect_statistics(base.model, base.params, reference, batches)
    if method in GRADIENT_OBJECTIVES:
        gradients = collect_gradients(base.model, base.params, reference, batches, objective=method)
    if method in NEEDS_FINETUNED:
        assert finetuned is not None
        gradients = collect_loss_gradient(base.model, base.params, finetuned, batches)
    return Evidence(statistics, gradients)


def make_reference(aligned: Adapter, weak: Adapter | None, settings: Amplification) -> Adapter:
    """Return the reference adapter of the settings, in product space of the aligned adapter's rank."""
    rank = settings.rank
    if rank is None and settings.amplification_space == "product":
        rank = next(iter(aligned.factors.values()))["a"].shape[1]
    return amplify(aligned, weak, beta=settings.beta, space=settings.amplification_space, rank=rank)


def prepare_finetuned(key: jax.Array, finetuned: Adapter, aligned: Adapter, settings: RepairSettings) -> Adapter:
    """Return the fine-tuned adapter in the basis of the settings.

    Args:
      key: PRNG key of the turn.
      finetuned, aligned: the adapters.
      settings: ``basis`` and ``turned``.
    """
    if settings.turned:
        finetuned = turned(stream(key, "turned"), finetuned)
    return common_basis(finetuned, aligned, method=settings.basis)


def make_masks(
    key: jax.Array,
    reference: Adapter,
    evidence: Evidence,
    settings: Identification,
    finetuned: Adapter | None = None,
) -> Masks:
    """Return the masks of the settings; ``gain`` needs the fine-tuned adapter."""
    return identify(
        reference,
        evidence.statistics,
        gradients=evidence.gradients,
        sparsity=settings.sparsity,
        method=settings.method,
        granularity=settings.granularity,
        key=stream(key, "random masks") if settings.method == "random" else None,
        finetuned=finetuned,
    )


def repair(
    key: jax.Array,
    finetuned: Adapter,
    reference: Adapter,
    masks: Masks,
    settings: RepairSettings,
    chosen_by: Adapter | None = None,
) -> list[Realigned]:
    """Realign once for every draw.

    Args:
      key: PRNG key; draw i uses its stream ``"draw i"``.
      finetuned, reference: the adapters.
      masks: from ``make_masks``.
      settings: the settings.
      chosen_by: the fine-tuned adapter whose similarities choose the modules; by default ``finetuned``.

    Returns:
      One result per draw; a single one for rules that draw nothing.
    """
    draws = settings.draws if settings.rule == "probability" else 1
    if chosen_by is not None:
        chosen = repair(key, chosen_by, reference, masks, settings)
        return [
            one._replace(adapter=correct(finetuned, reference, masks, one.pruned, space=settings.space))
            for one in chosen
        ]
    return [
        repair_once(stream(key, f"draw {draw}"), finetuned, reference, masks, settings) for draw in range(draws)
    ]


def repair_once(
    key: jax.Array, finetuned: Adapter, reference: Adapter, masks: Masks, settings: MethodSettings
) -> Realigned:
    """Realign with the draw of a key; see ``realign``."""
    return realign(
        key,
        finetuned,
        reference,
        masks,
        base_probability=settings.base_probability,
        increment=settings.increment,
        rule=settings.rule,
        tau=settings.tau,
        share=settings.share,
        layers=settings.layers,
        space=settings.space,
    )
