"""What the owner of an adapter holds, and how each holding is repaired with fixed settings of gain.

A ``Situation`` is registered in ``SITUATIONS`` by its name.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax

from nlsr_jax.adapter import Adapter, delta
from nlsr_jax.calibration.capture import collect_loss_gradient
from nlsr_jax.errors import InputError
from nlsr_jax.files.output import whole_directory, write_text
from nlsr_jax.formats.peft import load_adapter, write_adapter_files
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.lift import Lifted, lift
from nlsr_jax.nlsr.realign import realign
from nlsr_jax.nlsr.settings import GAIN, PUBLISHED
from nlsr_jax.nlsr.update import factor_update
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import Aligned, Case, align, finetune, gain_batches, stage_key
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.repairs import gather_evidence, make_masks, make_reference, repair_once
from nlsr_jax.study.stages import Base
from nlsr_jax.study.weights_case import LEARNING_RATE, WeightsCase, open_case, repaired
from nlsr_jax.study.worlds import World
from nlsr_jax.training.initial import new_adapter

SECONDS = "seconds.txt"
"""File beside a kept adapter: how long its training took."""


class Made(NamedTuple):
    """A model, and the seconds that it took to make.

    Attributes:
      base: the base.
      adapter: its adapter; None for the base alone.
      seconds: duration.
    """

    base: Base
    adapter: Adapter | None
    seconds: float


class Holding(Protocol):
    """What one owner holds.

    Attributes:
      models: the models before the repair, by method: ``"aligned"`` and ``"finetuned"``.
    """

    models: Mapping[str, Made]

    def repaired(self, beta: float, share: float) -> Made:
        """Return the repaired model: β, and the share of the entries that is transplanted."""
        ...

    def published(self) -> Made:
        """Return the model repaired with the paper's settings and one draw."""
        ...


class Workshop:
    """What the situations of a study share.

    Args:
      base: the pretrained model.
      world, config: world and configuration of the study.
      alignment: the adapter that makes the instruct model of the base.
      rates: learning rate of a fresh adapter by share of harmful rows.
      lineage: the weak and the aligned adapter of a lineage; None to align anew for every seed.
      folder: where fine-tuned adapters are kept, so that a later run finds them; None to keep none.
      show: show progress.
    """

    def __init__(
        self,
        base: Base,
        world: World,
        config: StudyConfig,
        alignment: Adapter,
        rates: Mapping[float, float],
        *,
        lineage: Aligned | None = None,
        folder: pathlib.Path | None = None,
        show: bool = False,
    ):
        self.base, self.world, self.config, self.alignment = base, world, config, alignment
        self.rates, self.show = dict(rates), show
        self._lineage, self._folder = lineage, folder
        self.fresh = functools.lru_cache(1)(self._fresh)

    @functools.cached_property
    def instruct(self) -> Base:
        """The instruct model: the base with the alignment merged into its weights."""
        return merged(self.base, self.alignment)

    def _fresh(self, case: Case) -> Made:
        """Fine-tune a fresh adapter on the instruct model."""
        stage = self.config.finetuning
        training = dataclasses.replace(stage.training, learning_rate=self.rates[case.poison_ratio])
        config = dataclasses.replace(self.config, finetuning=dataclasses.replace(stage, training=training))
        key = stream(stage_key(case.seed, case.stage), "lora")
        start = new_adapter(key, self.base.model.config, config.lora)
        return self._tuned("fresh", self.instruct, config, start, case)

    def aligned(self, case: Case) -> Aligned:
        """Return the weak and the aligned adapter of a case's lineage."""
        if self._lineage is not None:
            return self._lineage
        return align(self.base, self.world, self.config, case.seed, show=self.show)

    def continued(self, case: Case, aligned: Adapter) -> Made:
        """Fine-tune an aligned adapter."""
        return self._tuned("continued", self.base, self.config, aligned, case)

    def _tuned(self, kind: str, base: Base, config: StudyConfig, start: Adapter, case: Case) -> Made:
        kept = self._folder and self._folder / f"{kind}_{case.task}_{case.poison_ratio:g}_{case.seed}"
        if kept and kept.is_dir():
            return Made(base, load_adapter(kept, base.model.config), float((kept / SECONDS).read_text()))
        tuned = finetune(base, self.world, config, start, case, show=self.show)
        if kept:
            with whole_directory(kept) as partial:
                name = config.base if base is self.base else None  # the instruct model has no folder
                write_adapter_files(tuned.adapter, partial, base_model_name_or_path=name)
                write_text(partial / SECONDS, f"{tuned.seconds:.1f}\n")
        return Made(base, tuned.adapter, tuned.seconds)


def merged(base: Base, adapter: Adapter) -> Base:
    """Return a base with an adapter of all its layers merged into its weights."""
    layers = {name: dict(leaf) for name, leaf in base.params["layers"].items()}
    for module, update in delta(adapter).items():
        layers[module]["kernel"] = layers[module]["kernel"] + update
    return base._replace(params={**base.params, "layers": layers})


class LiftedHolding:
    """A holding whose adapters are lifted.

    Args:
      workshop: what situations share.
      case: task, share of harmful rows and seed.
      models: see ``Holding``.
      lifted: the adapters.
      fixed: leading places of the rank axis that are no candidates; see ``identify``.
      plain: the adapters that the paper's settings repair; by default the lifted ones.
    """

    def __init__(
        self,
        workshop: Workshop,
        case: Case,
        models: Mapping[str, Made],
        lifted: Lifted,
        fixed: Mapping[str, int] | None = None,
        plain: Lifted | None = None,
    ):
        self.models, self._plain = models, plain or lifted
        self._workshop, self._case, self._lifted, self._fixed = workshop, case, lifted, fixed
        self._base = models["finetuned"].base

    @functools.cached_property
    def _gradients(self):
        """The gradients at the fine-tuned adapter, which no setting affects, and the seconds of their pass."""
        started = time.perf_counter()
        batches = gain_batches(self._base, self._workshop.world, self._workshop.config, self._case.seed)
        model, params = self._base.model, self._base.params
        found = collect_loss_gradient(model, params, self._lifted.finetuned, batches)
        return jax.block_until_ready(found), time.perf_counter() - started

    def repaired(self, beta: float, share: float) -> Made:
        """See ``Holding``."""
        gradients, seconds = self._gradients
        started = time.perf_counter()
        weak, aligned, finetuned = self._lifted
        reference = amplify(aligned, weak, beta=beta)
        masks = identify(
            reference,
            sparsity=1 - share,
            method=GAIN.method,
            granularity=GAIN.granularity,
            gradients=gradients,
            finetuned=finetuned,
            fixed=self._fixed,
        )
        key = stage_key(self._case.seed, "realign")
        adapter = jax.block_until_ready(realign(key, finetuned, reference, masks, rule=GAIN.rule).adapter)
        return Made(self._base, adapter, seconds + time.perf_counter() - started)

    def published(self) -> Made:
        """See ``Holding``."""
        started = time.perf_counter()
        key, settings = stage_key(self._case.seed, "realign"), PUBLISHED
        reference = make_reference(self._plain.aligned, self._plain.weak, settings)
        batches = gain_batches(self._base, self._workshop.world, self._workshop.config, self._case.seed)
        evidence = gather_evidence(self._base, reference, batches, settings.method)
        masks = make_masks(key, reference, evidence, settings)
        found = repair_once(stream(key, "draw 0"), self._plain.finetuned, reference, masks, settings)
        return Made(self._base, jax.block_until_ready(found.adapter), time.perf_counter() - started)


class WeightsHolding:
    """A holding of full weights.

    Args:
      found: the case.
    """

    def __init__(self, found: WeightsCase):
        self.models: Mapping[str, Made] = {
            "aligned": Made(found.instruct, None, 0.0),
            "finetuned": Made(found.finetuned, None, found.seconds[0]),
        }
        self._found = found

    def repaired(self, beta: float, share: float) -> Made:
        """See ``Holding``."""
        started = time.perf_counter()
        base = repaired(self._found, beta, share)
        jax.block_until_ready(base.params)
        return Made(base, None, self._found.seconds[1] + time.perf_counter() - started)

    def published(self) -> Made:
        """Raise InputError: the paper repairs adapters."""
        raise InputError("the paper's settings repair adapters; full weights have none")


def instruct(workshop: Workshop, case: Case) -> Holding:
    """Return an instruct model and a fresh adapter on it."""
    tuned = workshop.fresh(case)
    assert tuned.adapter is not None
    models = {"aligned": Made(workshop.instruct, None, 0.0), "finetuned": tuned}
    return LiftedHolding(workshop, case, models, lift(tuned.adapter))


def instruct_pretrained(workshop: Workshop, case: Case) -> Holding:
    """Return the same with the pretrained model at hand: V is their difference, of the alignment's rank, turned."""
    tuned = workshop.fresh(case)
    assert tuned.adapter is not None
    models = {"aligned": Made(workshop.instruct, None, 0.0), "finetuned": tuned}
    key = stage_key(case.seed, "realign")
    direction = factor_update(workshop.alignment, basis="turned", key=stream(key, "direction"))
    return LiftedHolding(workshop, case, models, lift(tuned.adapter, direction, basis="turned", key=key))


def lineage(workshop: Workshop, case: Case) -> Holding:
    """Return a weak, an aligned and a fine-tuned adapter of one lineage, lifted with turned rank axes."""
    found = workshop.aligned(case)
    tuned = workshop.continued(case, found.aligned)
    assert tuned.adapter is not None
    models = {"aligned": Made(workshop.base, found.aligned, found.seconds), "finetuned": tuned}
    key = stage_key(case.seed, "realign")
    direction = factor_update(found.aligned, found.weak, basis="turned", key=stream(key, "direction"))
    lifted = lift(tuned.adapter, direction, aligned=found.aligned, basis="turned", key=key)
    fixed = {module: leaf["a"].shape[1] for module, leaf in found.aligned.factors.items()}
    return LiftedHolding(workshop, case, models, lifted, fixed, Lifted(found.weak, found.aligned, tuned.adapter))


def weights(workshop: Workshop, case: Case) -> Holding:
    """Return an instruct model whose weights were all fine-tuned, with the pretrained model at hand."""
    return WeightsHolding(
        open_case(workshop.base, workshop.instruct, workshop.world, workshop.config, case, show=workshop.show)
    )


def _fresh_rate(rates: Mapping[float, float], ratio: float) -> float:
    return rates[ratio]


def _study_rate(rates: Mapping[float, float], ratio: float) -> None:
    return None


def _weights_rate(rates: Mapping[float, float], ratio: float) -> float:
    return LEARNING_RATE


class Situation(NamedTuple):
    """One kind of holding.

    Attributes:
      open: returns the holding of a case.
      betas: the values of β that it is repaired with; None for all. Without a direction only 0 has a meaning.
      learning_rate: returns the learning rate of the customer's training from ``Workshop.rates`` and the share of
        harmful rows; None for the study's.
      published: whether the paper's settings have a meaning: adapters, and a direction of safety.
    """

    open: Callable[[Workshop, Case], Holding]
    betas: tuple[float, ...] | None = None
    learning_rate: Callable[[Mapping[float, float], float], float | None] = _fresh_rate
    published: bool = True


SITUATIONS: dict[str, Situation] = {
    "instruct": Situation(instruct, (0.0,), published=False),
    "instruct_pretrained": Situation(instruct_pretrained, (1.0, 2.0)),
    "lineage": Situation(lineage, learning_rate=_study_rate),
    "weights": Situation(weights, learning_rate=_weights_rate, published=False),
}
"""The situations by name; with β 0 the second is the first."""
