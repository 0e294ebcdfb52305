"""SPLoRA: drop the modules whose update lies farthest from its projection on the alignment's subspace.

The distance ``‖C B A − B A‖_F`` of a module is put on a common scale by E-DIEM, the empirical form of the
dimension-insensitive Euclidean metric ``(v_M − v_m) / σ² · (d − E[d])``: mean and spread of the distance are
measured and not derived for random vectors. The measured distances here are those of the modules of one name over
the layers, which have one size; the spread is the interquartile range, which outliers do not move.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Ao et al., Safe Pruning LoRA, 2025 (arXiv 2506.18931); Tessari and Hogan 2024 (arXiv 2407.08623) for the
metric. In the authors' program every sample of the distance is the module's own, so that mean and spread say
nothing; the paper's form stands here.
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
    """``‖C B A − B A‖_F`` of every module from r × r matrices."""

    def one_layer(leaf, other, scaling):
        a = leaf["a"].astype(jnp.float32)
        change = other["b"].astype(jnp.float32) - leaf["b"].astype(jnp.float32)
        square = jnp.sum(matmul(change.T, change) * matmul(a, a.T))
        return scaling * jnp.sqrt(jnp.maximum(square, 0.0))

    scalings = {module: jnp.asarray(layer_scaling(finetuned, module)) for module in finetuned.factors}
    found: Any = map_modules(one_layer, finetuned.factors, projected.factors, scalings)
    return found


def ediem(distances: PerModule) -> PerModule:
    """Return ``(d − mean) / (q₇₅ − q₂₅)`` of the distances ``[L]`` of every name; 0 where there is no spread."""

    def one(values):
        spread = jnp.quantile(values, 0.75) - jnp.quantile(values, 0.25)
        return jnp.where(spread > _TINY, (values - jnp.mean(values)) / jnp.maximum(spread, _TINY), 0.0)

    return {module: one(values) for module, values in distances.items()}


def splora(finetuned: Adapter, aligned: Adapter, *, number: int = 10, projector: str = "fast") -> Projected:
    """Set the update of the modules that are farthest from the alignment to zero.

    Args:
      finetuned, aligned, projector: see ``project_onto``.
      number: how many modules are dropped.

    Returns:
      ``Projected``; ``cosine`` holds minus the E-DIEM distance, so that lower is farther; ``changed`` the dropped.

    Raises:
      InputError: as ``project_onto``; ``number`` below 0.
    """
    if number < 0:
        raise InputError(f"number is {number}; expected 0 or more")
    projected, _ = project_onto(finetuned, aligned, projector=projector)
    likeness = {module: -values for module, values in ediem(_distances(finetuned, projected)).items()}
    changed = {module: rank <= number for module, rank in similarity_rank(likeness).items()}
    dropped = {m: {"a": leaf["a"], "b": jnp.zeros_like(leaf["b"])} for m, leaf in finetuned.factors.items()}
    without = dataclasses.replace(finetuned, factors=dropped)
    return Projected(choose_layers(changed, without, finetuned), likeness, changed)
