"""What the owner of an adapter holds, and how each holding is repaired.

A ``Situation`` is registered in ``SITUATIONS`` by its name.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

import jax

from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.lift import Lifted, lift
from nlsr_jax.nlsr.settings import (
    RECOMMENDED,
    RECOMMENDED_ALONE,
    RECOMMENDED_LINEAGE,
    RECOMMENDED_MODEL,
    REFINED_STRENGTH,
    MethodSettings,
)
from nlsr_jax.nlsr.update import factor_update
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import Aligned, Case, stage_key
from nlsr_jax.study.lifted_holding import LiftedHolding
from nlsr_jax.study.weights_case import LEARNING_RATE, WeightsCase, open_case, repaired
from nlsr_jax.study.workshop import Holding, Made, Peer, Workshop


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

    def repaired(self, beta: float, share: float, strength: float = 1.0) -> Made:
        """See ``Holding``."""
        started = time.perf_counter()
        base = repaired(self._found, beta, share, strength)
        jax.block_until_ready(base.params)
        return Made(base, None, self._found.seconds[1] + time.perf_counter() - started)

    def recommended(self, beta: float, share: float, strength: float = 1.0) -> Made:
        """See ``Holding``; of a full model the rows' answers are read."""
        return self.repaired(beta, share, strength)

    def refined(self, beta: float, share: float, strength: float = 1.0, *, keeps: bool = False) -> NoReturn:
        """Raise InputError: the entries of full weights have a fixed share."""
        raise InputError("the share of full weights' entries is not refined")

    def published(self) -> Made:
        """Raise InputError: the paper repairs adapters."""
        raise InputError("the paper's settings repair adapters; full weights have none")

    def by_peer(self, peer: Peer, setting: float) -> NoReturn:
        """Raise InputError: the peers repair adapters."""
        raise InputError("other repairs take adapters; full weights have none")


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
    lifted = lift(tuned.adapter, direction, basis="turned", key=key)
    return LiftedHolding(workshop, case, models, lifted, alignment=workshop.alignment)


def instruct_pretrained_own(workshop: Workshop, case: Case) -> Holding:
    """Return the same in the rank axes of the two trained adapters: V has those of the alignment's."""
    tuned = workshop.fresh(case)
    assert tuned.adapter is not None
    models = {"aligned": Made(workshop.instruct, None, 0.0), "finetuned": tuned}
    lifted = lift(tuned.adapter, workshop.alignment)
    return LiftedHolding(workshop, case, models, lifted, alignment=workshop.alignment)


def lineage(workshop: Workshop, case: Case) -> Holding:
    """Return a weak, an aligned and a fine-tuned adapter of one lineage, lifted with turned rank axes."""
    found = workshop.aligned(case)
    return lineage_of(workshop, case, found, workshop.continued(case, found.aligned))


def lineage_of(workshop: Workshop, case: Case, found: Aligned, tuned: Made) -> LiftedHolding:
    """Return the holding of adapters of one lineage that are trained already.

    Args:
      workshop: base, world and configuration; trains nothing here.
      case: task, share of harmful rows and seed.
      found: the weak and the aligned adapter. Where they are one, V is zero and β has no effect.
      tuned: the fine-tuned adapter.
    """
    assert tuned.adapter is not None
    models = {"aligned": Made(workshop.base, found.aligned, found.seconds), "finetuned": tuned}
    key = stage_key(case.seed, "realign")
    direction = factor_update(found.aligned, found.weak, basis="turned", key=stream(key, "direction"))
    lifted = lift(tuned.adapter, direction, aligned=found.aligned, basis="turned", key=key)
    fixed = {module: leaf["a"].shape[1] for module, leaf in found.aligned.factors.items()}
    plain = Lifted(found.weak, found.aligned, tuned.adapter)
    return LiftedHolding(workshop, case, models, lifted, fixed, plain, found.aligned)


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
      recommended: the settings that this project recommends there for a fixed share.
      betas: the values of β that it is repaired with; None for all. Without a direction only 0 has a meaning.
      learning_rate: returns the learning rate of the customer's training from ``Workshop.rates`` and the share of
        harmful rows; None for the study's.
      refines: whether the share can be refined.
      published: whether the paper's settings have a meaning: adapters, and a direction of safety.
      strength: of a refined repair's correction; see ``nlsr_jax.nlsr.correction.correct``.
    """

    open: Callable[[Workshop, Case], Holding]
    recommended: MethodSettings
    betas: tuple[float, ...] | None = None
    learning_rate: Callable[[Mapping[float, float], float], float | None] = _fresh_rate
    refines: bool = True
    published: bool = True
    strength: float = 1.0


SITUATIONS: dict[str, Situation] = {
    "instruct": Situation(instruct, RECOMMENDED_ALONE, (0.0,), published=False, strength=REFINED_STRENGTH),
    "instruct_pretrained": Situation(instruct_pretrained, RECOMMENDED, (1.0, 2.0)),
    "instruct_pretrained_own": Situation(
        instruct_pretrained_own, RECOMMENDED, (1.0, 2.0), refines=False, published=False
    ),
    "lineage": Situation(lineage, RECOMMENDED_LINEAGE, learning_rate=_study_rate),
    "weights": Situation(weights, RECOMMENDED_MODEL, learning_rate=_weights_rate, refines=False, published=False),
}
"""The situations by name; with β 0 the second is the first."""
