"""MSCP: project the neurons active on harmful but not on harmless requests on the alignment's direction.

In the layers near a third of the depth, consider the output neurons that are among the most active on harmful
requests and not among the most active on harmless ones. Their rows of the update are replaced by ``W_safe · ΔW``
with ``W_safe = V Vᵀ / d``, where V is the aligned adapter's update.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Han et al., Multi-level safety continual projection, 2025 (arXiv 2508.09190), as publicly described.
Activity here is the mean square of the update's contribution to the neuron. The paper also projects the base's own
weights; here they are unchanged, because an adapter cannot represent that.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, check_same_structure, layer_indices
from nlsr_jax.defenses.subspace import decompose, project
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.statistics import Statistics, matmul

DEPTH = 1 / 3


def _activity(b: jax.Array, gram: jax.Array) -> jax.Array:
    """Return sums of squares ``[L, d]`` of ``B z`` over positions, from the Gram matrix ``[L, r, r]`` of z."""
    b = b.astype(jnp.float32)
    return jnp.sum(matmul(b, gram) * b, axis=-1)


def _top(values: jax.Array, share: float) -> jax.Array:
    """Mark the largest ``share`` of each row of ``[L, d]``, ties by index."""
    count = round(share * values.shape[-1])
    ranks = jnp.argsort(jnp.argsort(-values, axis=-1, stable=True), axis=-1)
    return ranks < count


def mscp(
    finetuned: Adapter,
    aligned: Adapter,
    harmful: Statistics,
    benign: Statistics,
    *,
    harmful_share: float = 0.1,
    benign_share: float = 0.1,
    width: float = 0.25,
    coefficient: float = 1.0,
) -> Adapter:
    """Blend the rows of safety neurons with their projection.

    Args:
      finetuned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: the aligned adapter.
      harmful, benign: statistics of the fine-tuned model on harmful and on harmless rows.
      harmful_share, benign_share: share of a module's neurons that count as most active.
      width: share of the decoder layers to project, around a third of the depth.
      coefficient: weight of the projection, in [0, 1]; the original row has the rest.

    Returns:
      The adapter, with the same rank.

    Raises:
      InputError: if the adapters do not match, or a share or coefficient is outside [0, 1].
    """
    values = {
        "harmful_share": harmful_share,
        "benign_share": benign_share,
        "width": width,
        "coefficient": coefficient,
    }
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}; expected 0 to 1")
    check_same_structure(aligned, finetuned, ("aligned", "fine-tuned"), rank=False)
    svds = decompose(aligned)
    weights = {module: jnp.square(svd.s) / svd.u.shape[1] for module, svd in svds.items()}
    projected = project(finetuned, svds, weights)
    depth = 1 + max(i for module in finetuned.factors for i in layer_indices(finetuned, module))
    factors = {}
    for module, leaf in finetuned.factors.items():
        place = (np.asarray(layer_indices(finetuned, module)) + 0.5) / depth
        near = jnp.asarray(np.abs(place - DEPTH) <= width / 2)[:, None]
        chosen = _top(_activity(leaf["b"], harmful.gram[module]), harmful_share)
        chosen &= ~_top(_activity(leaf["b"], benign.gram[module]), benign_share) & near
        b = leaf["b"].astype(jnp.float32)
        blended = (1 - coefficient) * b + coefficient * projected.factors[module]["b"].astype(jnp.float32)
        factors[module] = {
            "a": leaf["a"],
            "b": jnp.where(chosen[..., None], blended.astype(leaf["b"].dtype), leaf["b"]),
        }
    return dataclasses.replace(finetuned, factors=factors)
