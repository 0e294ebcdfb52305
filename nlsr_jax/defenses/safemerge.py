"""SafeMERGE: blend modules that left the alignment's subspace with the aligned adapter, keep the others.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Djuhera et al., SafeMERGE, 2025 (arXiv 2503.17239): SafeLoRA's cosine, τ = 0.35, and 0.8 · fine-tuned +
0.2 · safe in the modules below τ.
"""

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.defenses.merging import weighted_sum
from nlsr_jax.defenses.safelora import Projected, project_onto
from nlsr_jax.defenses.subspace import choose_layers
from nlsr_jax.errors import InputError


def safemerge(
    finetuned: Adapter,
    aligned: Adapter,
    *,
    tau: float = 0.35,
    weight: float = 0.8,
    space: str = "product",
    projector: str = "fast",
) -> Projected:
    """Blend the modules whose cosine is below τ.

    Args:
      finetuned, aligned: see ``project_onto``.
      tau: blend modules whose cosine with the projected update is below this.
      weight: weight of the fine-tuned adapter, in [0, 1]; the aligned one has the rest.
      space: see ``weighted_sum``; in product space the result's rank is the sum of both.
      projector: see ``project_onto``.

    Returns:
      ``Projected``; ``changed`` marks the blended modules.

    Raises:
      InputError: as in ``project_onto`` and ``weighted_sum``, or if weight is outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise InputError(f"weight is {weight}; expected 0 to 1")
    _, cosine = project_onto(finetuned, aligned, projector=projector)
    changed = {module: value < tau for module, value in cosine.items()}
    blended = weighted_sum((finetuned, aligned), (weight, 1 - weight), space=space)
    return Projected(choose_layers(changed, blended, _widened(finetuned, blended)), cosine, changed)


def _widened(adapter: Adapter, like: Adapter) -> Adapter:
    """Return the adapter with its ranks zero-padded to those of another."""

    def pad(module, factor, axis):
        leaf, wide = adapter.factors[module][factor], like.factors[module][factor]
        width = [(0, 0)] * 3
        width[axis] = (0, wide.shape[axis] - leaf.shape[axis])
        return jnp.pad(leaf, width)

    factors = {m: {"a": pad(m, "a", 1), "b": pad(m, "b", 2)} for m in adapter.factors}
    return Adapter(factors, adapter.scaling, adapter.layers)
