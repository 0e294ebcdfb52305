"""Realignment: similarity, the choice of modules, and the correction, in one call.

Source: NLSR, section on restoration.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.correction import check_space, check_strength, correct_checked
from nlsr_jax.nlsr.pruning import check_rule, choose_pruned
from nlsr_jax.nlsr.similarity import check_masks, masked_cosine
from nlsr_jax.types import Masks


class Realigned(NamedTuple):
    """The result of a realignment.

    Attributes:
      adapter: the realigned adapter.
      similarity: ``{module: [L]}`` float32 S_j.
      probability: ``{module: [L]}`` float32 P_j, the probability of leaving the module alone (0 or 1 for the
        deterministic rules).
      pruned: ``{module: [L]}`` bool γ_j, True = left alone.
      zero_norm: ``{module: [L]}`` bool, True if a masked product was zero, so that S_j was set to 0.
    """

    adapter: Adapter
    similarity: PerModule
    probability: PerModule
    pruned: PerModule
    zero_norm: PerModule


def repaired_layers(adapter: Adapter, layers: Sequence[int]) -> tuple[tuple[str, tuple[bool, ...]], ...]:
    """Return, per module, which entries of its leading axis are among the given decoder layers.

    Args:
      adapter: the fine-tuned adapter.
      layers: decoder layer numbers.

    Raises:
      InputError: if no module of the adapter adapts a layer.
    """
    wanted = {int(layer) for layer in layers}
    adapted = {i for module in adapter.factors for i in layer_indices(adapter, module)}
    if not wanted or wanted - adapted:
        raise InputError(
            f"layers {sorted(wanted - adapted)} are not adapted; the adapter has layers "
            f"{min(adapted)} to {max(adapted)}"
        )
    return tuple(
        (module, tuple(i in wanted for i in layer_indices(adapter, module)))
        for module in module_names(adapter.factors)
    )


def choose(
    key: jax.Array,
    finetuned: Adapter,
    similarity: PerModule,
    *,
    base_probability: float = 0.5,
    increment: float = 0.4,
    rule: str = "probability",
    tau: float | None = None,
    share: float | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[PerModule, PerModule]:
    """Choose the modules to leave alone from their similarities.

    Args:
      key: PRNG key of the draw (rule ``probability``).
      finetuned: W_t, for the layer numbers.
      similarity: ``{module: [L]}`` S_j.
      base_probability, increment: P_L and δ of rule ``probability``.
      rule: ``probability``; ``threshold`` repairs modules with S_j < ``tau``; ``least_similar`` repairs the
        ``round(share · N)`` least similar; ``all``; ``layers`` repairs the given decoder layers.
      tau, share, layers: the setting of the rule that uses it.

    Returns:
      ``(pruned, probability)``, each ``{module: [L]}``.

    Raises:
      InputError: if the rule is unknown, or a setting is missing, superfluous or invalid.
    """
    check_rule(rule, tau, share, layers)
    count = sum(value.shape[0] for value in similarity.values())
    settings = {"base_probability": base_probability, "increment": increment, "tau": tau or 0.0}
    return choose_pruned(
        key,
        similarity,
        jax.tree.map(jnp.float32, settings),
        rule=rule,
        repaired=0 if share is None else round(share * count),
        layers=() if layers is None else repaired_layers(finetuned, layers),
    )


def realign(
    key: jax.Array,
    finetuned: Adapter,
    reference: Adapter,
    masks: Masks,
    *,
    base_probability: float = 0.5,
    increment: float = 0.4,
    rule: str = "probability",
    space: str = "factors",
    tau: float | None = None,
    share: float | None = None,
    layers: Sequence[int] | None = None,
    strength: float = 1.0,
) -> Realigned:
    """Repair the fine-tuned adapter where it has lost the reference's safety-critical neurons.

    Under ``jit`` no values are checked: entries outside the range of the dtype become infinite (the similarity is
    then NaN) or 0. ``save_adapter`` refuses values that are not finite.

    Args:
      key: PRNG key; the draw of rule ``probability`` is ``draw_pruned(key, probability)``.
      finetuned: W_t, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      reference: W_e, same shapes and scaling.
      masks: bool tree of the factors; see ``identify``.
      base_probability, increment, rule, tau, share, layers: the choice of modules; see ``choose``. The default
        P_L is that of the paper's equation; tables and commands use ``nlsr_jax.PUBLISHED``.
      space, strength: of the correction; see ``correct``.

    Returns:
      A ``Realigned`` with the adapter and all S_j, P_j and γ_j.

    Raises:
      InputError: if a setting is out of range, or the arguments do not match.
    """
    check_space(space)
    check_strength(strength)
    check_same_structure(finetuned, reference, ("fine-tuned", "reference"))
    check_masks(finetuned, masks)
    similarity, zero_norm = masked_cosine(reference, finetuned, masks)
    pruned, probability = choose(
        key,
        finetuned,
        similarity,
        base_probability=base_probability,
        increment=increment,
        rule=rule,
        tau=tau,
        share=share,
        layers=layers,
    )
    adapter = correct_checked(finetuned, reference, masks, pruned, space=space, strength=strength)
    return Realigned(adapter, similarity, probability, pruned, zero_norm)
