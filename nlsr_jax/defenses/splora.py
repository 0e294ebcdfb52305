"""SPLoRA: drop the modules whose update is farthest from its projection on the alignment's subspace.

E-DIEM puts the distances ``‖C B A − B A‖_F`` on a common scale. It is the empirical form of the
dimension-insensitive Euclidean metric ``(v_M − v_m) / σ² · (d − E[d])``: mean and spread of the distance are
measured instead of derived for random vectors. Here they are measured over the layers of modules with the same
name, which have equal sizes; the spread is the interquartile range, which is robust to outliers.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Ao et al., Safe Pruning LoRA, 2025 (arXiv 2506.18931); Tessari and Hogan 2024 (arXiv 2407.08623) for the
metric. In the authors' program every sample of the distance comes from the module itself, so that mean and spread
carry no information; this file follows the paper.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule, layer_scaling
from nlsr_jax.defenses.safelora import Projected, project_onto
from nlsr_jax.defenses.subspace import choose_layers
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.pruning import similarity_rank
from nlsr_jax.nlsr.statistics import matmul

_TINY = 1e-12


@jax.jit
def _distances(finetuned: Adapter, projected: Adapter) -> PerModule:
    """Return ``‖C B A − B A‖_F`` for each module from r × r matrices."""

    def one_layer(leaf, other, scaling):
        a = leaf["a"].astype(jnp.float32)
        change = other["b"].astype(jnp.float32) - leaf["b"].astype(jnp.float32)
        square = jnp.sum(matmul(change.T, change) * matmul(a, a.T))
        return scaling * jnp.sqrt(jnp.maximum(square, 0.0))

    scalings = {module: jnp.asarray(layer_scaling(finetuned, module)) for module in finetuned.factors}
    found: Any = map_modules(one_layer, finetuned.factors, projected.factors, scalings)
    return found


def ediem(distances: PerModule) -> PerModule:
    """Return ``(d − mean) / (q₇₅ − q₂₅)`` of the distances ``[L]`` of each name; 0 if the spread is 0."""

    def one(values):
        spread = jnp.quantile(values, 0.75) - jnp.quantile(values, 0.25)
        return jnp.where(spread > _TINY, (values - jnp.mean(values)) / jnp.maximum(spread, _TINY), 0.0)

    return {module: one(values) for module, values in distances.items()}


def splora(finetuned: Adapter, aligned: Adapter, *, number: int = 10, projector: str = "fast") -> Projected:
    """Set the update of the modules farthest from the alignment to zero.

    Args:
      finetuned, aligned, projector: see ``project_onto``.
      number: number of modules to drop.

    Returns:
      ``Projected``; ``cosine`` is minus the E-DIEM distance, so that lower is farther; ``changed`` marks the
      dropped modules.

    Raises:
      InputError: as in ``project_onto``, or if ``number`` is below 0.
    """
    if number < 0:
        raise InputError(f"number is {number}; expected 0 or more")
    projected, _ = project_onto(finetuned, aligned, projector=projector)
    likeness = {module: -values for module, values in ediem(_distances(finetuned, projected)).items()}
    changed = {module: rank <= number for module, rank in similarity_rank(likeness).items()}
    dropped = {m: {"a": leaf["a"], "b": jnp.zeros_like(leaf["b"])} for m, leaf in finetuned.factors.items()}
    without = dataclasses.replace(finetuned, factors=dropped)
    return Projected(choose_layers(changed, without, finetuned), likeness, changed)
