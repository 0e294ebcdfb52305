"""Apply the defenses in a study: before, during or after the customer's fine-tuning."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.capture import collect_statistics
from nlsr_jax.data.examples import Example
from nlsr_jax.defenses.antidote import antidote
from nlsr_jax.defenses.booster import Booster
from nlsr_jax.defenses.constrained_sft import ConstrainedSft
from nlsr_jax.defenses.lisa import Lisa
from nlsr_jax.defenses.lox import lox
from nlsr_jax.defenses.lssf import lssf
from nlsr_jax.defenses.mscp import mscp
from nlsr_jax.defenses.repnoise import RepNoise
from nlsr_jax.defenses.resta import resta
from nlsr_jax.defenses.safelora import safelora
from nlsr_jax.defenses.safemerge import safemerge
from nlsr_jax.defenses.splora import splora
from nlsr_jax.defenses.vaccine import Vaccine
from nlsr_jax.defenses.vlguard import mix_guides
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import Aligned, Case, align_stage, calibration_rows, customer_rows, stage_key
from nlsr_jax.study.config import Stage, StudyConfig
from nlsr_jax.study.repairs import calibration_batches
from nlsr_jax.study.stages import Base, train_adapter
from nlsr_jax.study.worlds import World
from nlsr_jax.training.initial import new_adapter
from nlsr_jax.training.methods import Method


class Materials(NamedTuple):
    """The inputs of a defense.

    Attributes:
      base, world, config, case: base, world, configuration and case of the study.
      alignment: the adapters aligned without a defense.
      objective: objective of the second alignment stage.
    """

    base: Base
    world: World
    config: StudyConfig
    case: Case
    alignment: Aligned
    objective: str = "dpo"

    def key(self, name: str) -> jax.Array:
        """Return the key of one of the defense's streams, such as ``"guides"``."""
        return stream(stage_key(self.case.seed, "defend"), name)


class Defense(NamedTuple):
    """A defense.

    Attributes:
      when: ``"before"``, ``"during"`` or ``"after"`` the fine-tuning.
      settings: the function or class whose keyword arguments are the settings.
      apply: before: materials → the adapter that fine-tuning starts from; during: materials → the fine-tuned
        adapter; after: materials and fine-tuned adapter → the repaired adapter.
    """

    when: str
    settings: Callable | None
    apply: Callable[..., Adapter]


def _train(materials: Materials, name: str, start: Adapter, rows, stage: Stage, **options) -> Adapter:
    key = stage_key(materials.case.seed, name)
    return train_adapter(key, materials.base, start, rows, stage.training, description=name, **options)


def _new(materials: Materials) -> Adapter:
    """Return the new adapter that the alignment without a defense starts from."""
    key = stream(stage_key(materials.case.seed, "align sft"), "lora")
    return new_adapter(key, materials.base.model.config, materials.config.lora)


def _safe_rows(materials: Materials) -> list[Example]:
    """Return the safe answers of the first alignment stage."""
    key = stream(stage_key(materials.case.seed, "align sft"), "rows")
    return materials.world.safe_rows(key, materials.config.sft.rows)


def _preferred(materials: Materials, weak: Adapter) -> Adapter:
    """Continue from another weak alignment with the study's second stage, as without a defense."""
    if materials.objective == "sft":
        return weak
    case = materials.case
    return align_stage(materials.base, materials.world, materials.config, case.seed, materials.objective, weak)


def _guides(materials: Materials, count: int) -> list[Example]:
    return materials.world.safe_rows(materials.key("guides"), count)


def _customer(materials: Materials) -> list[Example]:
    key = stage_key(materials.case.seed, materials.case.stage)
    return customer_rows(key, materials.world, materials.case, materials.config.finetuning.rows)


def _nonaligned(materials: Materials) -> Adapter:
    return _new(materials)


def _vaccine(materials: Materials, **settings) -> Adapter:
    start, rows = _new(materials), _safe_rows(materials)
    weak = _train(materials, "vaccine", start, rows, materials.config.sft, method=Vaccine(**settings))
    return _preferred(materials, weak)


def _booster(materials: Materials, **settings) -> Adapter:
    harmful = materials.world.harmful_rows(materials.key("harmful"), materials.config.sft.rows)
    options: dict[str, Any] = {"companions": harmful, "method": Booster(**settings)}
    weak = _train(materials, "booster", _new(materials), _safe_rows(materials), materials.config.sft, **options)
    return _preferred(materials, weak)


def _repnoise(materials: Materials, **settings) -> Adapter:
    stage = materials.config.sft
    pairs = materials.world.harmful_pairs(materials.key("pairs"), stage.rows)
    method = RepNoise(seed=materials.case.seed, **settings)
    return _train(materials, "repnoise", materials.alignment.aligned, pairs, stage, method=method)


def _lox(materials: Materials, **settings) -> Adapter:
    return lox(materials.alignment.aligned, **settings)


def _finetuned_by(materials: Materials, rows, method: Method | None, **options) -> Adapter:
    """Run the customer's fine-tuning with other rows or another method."""
    start, stage = materials.alignment.aligned, materials.config.finetuning
    return _train(materials, materials.case.stage, start, rows, stage, method=method, **options)


def _vlguard(materials: Materials, **settings) -> Adapter:
    rows = _customer(materials)
    mixed = mix_guides(materials.key("places"), rows, _guides(materials, len(rows)), **settings)
    return _finetuned_by(materials, mixed, None)


def _lisa(materials: Materials, **settings) -> Adapter:
    rows = _customer(materials)
    stage = materials.config.finetuning
    steps = stage.training.epochs * -(-len(rows) // stage.training.batch_size)
    # The script's 100 and 900 steps are a tenth and nine tenths of a cycle; a run here has fewer steps.
    turn = max(10, steps // 10)
    given = {"safe_steps": turn // 10, "customer_steps": turn - turn // 10, **settings}
    return _finetuned_by(materials, rows, Lisa(**given), companions=_guides(materials, len(rows)))


def _constrained(materials: Materials, **settings) -> Adapter:
    return _finetuned_by(materials, _customer(materials), ConstrainedSft(**settings))


def _safelora(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    return safelora(finetuned, materials.alignment.aligned, **settings).adapter


def _safemerge(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    return safemerge(finetuned, materials.alignment.aligned, **settings).adapter


def _resta(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    return resta(finetuned, materials.alignment.aligned, **settings)


def _statistics(materials: Materials, adapter: Adapter, rows, every_token: bool):
    length = materials.config.sft.training.max_length
    batches = calibration_batches(materials.base, rows, 50, length)
    if every_token:  # through the end of the response
        batches = [(tokens, np.flip(np.logical_or.accumulate(np.flip(mask, 1), 1), 1)) for tokens, mask in batches]
    return collect_statistics(materials.base.model, materials.base.params, adapter, batches)


def _antidote(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    rows = materials.world.harmful_rows(materials.key("harmful"), materials.config.calibration_rows)
    return antidote(finetuned, _statistics(materials, finetuned, rows, True), **settings)


def _lssf(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    aligned = materials.alignment.aligned
    rows = calibration_rows(materials.world, materials.config, materials.case.seed)
    return lssf(finetuned, aligned, _statistics(materials, aligned, rows, False), **settings).adapter


def _splora(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    return splora(finetuned, materials.alignment.aligned, **settings).adapter


def _mscp(materials: Materials, finetuned: Adapter, **settings) -> Adapter:
    count, world = materials.config.calibration_rows, materials.world
    harmful = world.harmful_rows(materials.key("harmful"), count)
    benign = world.customer_rows(materials.key("benign"), materials.case.task, count, 0.0)
    activity = (_statistics(materials, finetuned, rows, True) for rows in (harmful, benign))
    return mscp(finetuned, materials.alignment.aligned, *activity, **settings)


DEFENSES = {
    "nonaligned": Defense("before", None, _nonaligned),
    "vaccine": Defense("before", Vaccine, _vaccine),
    "repnoise": Defense("before", RepNoise, _repnoise),
    "booster": Defense("before", Booster, _booster),
    "lox": Defense("before", lox, _lox),
    "vlguard": Defense("during", mix_guides, _vlguard),
    "lisa": Defense("during", Lisa, _lisa),
    "constrained_sft": Defense("during", ConstrainedSft, _constrained),
    "safelora": Defense("after", safelora, _safelora),
    "safemerge": Defense("after", safemerge, _safemerge),
    "resta": Defense("after", resta, _resta),
    "splora": Defense("after", splora, _splora),
    "lssf": Defense("after", lssf, _lssf),
    "mscp": Defense("after", mscp, _mscp),
    "antidote": Defense("after", antidote, _antidote),
}
"""The defenses by row name."""


def setting_types(name: str) -> dict[str, Any]:
    """Return the settings of a defense with their types."""
    settings = DEFENSES[name].settings
    if settings is None:
        return {}
    if dataclasses.is_dataclass(settings):
        return {field.name: field.type for field in dataclasses.fields(settings) if field.name != "seed"}
    parameters = inspect.signature(settings).parameters.values()
    return {p.name: p.annotation for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def prepare(name: str, materials: Materials, **settings: Any) -> Adapter:
    """Return the adapter that the customer's fine-tuning starts from, for a defense before fine-tuning.

    It depends only on the seed and the alignment, not on the customer.
    """
    return DEFENSES[name].apply(materials, **settings)


def defend(
    name: str, materials: Materials, finetuned: Adapter, *, start: Adapter | None = None, **settings: Any
) -> Adapter:
    """Return the adapter that a customer gets with a defense.

    Args:
      name: one of ``DEFENSES``.
      materials: inputs from the study.
      finetuned: the adapter that was fine-tuned without a defense.
      start: result of ``prepare`` for a defense before fine-tuning; computed by default.
      **settings: settings of the defense; see its own function.
    """
    defense = DEFENSES[name]
    if defense.when == "after":
        return defense.apply(materials, finetuned, **settings)
    if defense.when == "during":
        return defense.apply(materials, **settings)
    start = prepare(name, materials, **settings) if start is None else start
    return _train(materials, materials.case.stage, start, _customer(materials), materials.config.finetuning)
