"""LSSF: restore the alignment in the directions that carry it on anchor data.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Low-rank safety subspace fusion (arXiv 2602.00038): ``θ_ft += α P_q (θ_aligned − θ_base)``; P_q projects on
the left singular vectors of the update's response to anchor inputs, as many as hold a share η of the entropy
``−Σ p log p``, where ``p = σ² / Σσ²``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, check_same_structure
from nlsr_jax.defenses.merging import weighted_sum
from nlsr_jax.defenses.subspace import Svd, project
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.statistics import Statistics, matmul


class Fused(NamedTuple):
    """The result of LSSF.

    Attributes:
      adapter: the adapter; its rank is the sum of both ranks.
      ranks: ``{module: [L]}`` int32, number of directions kept.
    """

    adapter: Adapter
    ranks: dict[str, jax.Array]


def entropy_rank(s: jax.Array, share: float) -> jax.Array:
    """Return the smallest number of singular values ``[..., r]`` that hold ``share`` of their entropy, int32."""
    power = jnp.square(s)
    total = jnp.sum(power, axis=-1, keepdims=True)
    p = power / jnp.where(total > 0, total, 1.0)
    terms = -p * jnp.log(jnp.where(p > 0, p, 1.0))
    sums = jnp.cumsum(terms, axis=-1)
    # A single direction has zero entropy; it is kept.
    return 1 + jnp.sum(sums < share * sums[..., -1:], axis=-1, dtype=jnp.int32)


@jax.jit
def _responses(adapter: Adapter, roots) -> dict[str, Svd]:
    """Decompose ``B A X`` from the square root of the Gram matrix of ``A X``, which is sufficient."""

    def one_layer(leaf, root):
        q, r = jnp.linalg.qr(leaf["b"].astype(jnp.float32))
        u, s, _ = jnp.linalg.svd(matmul(r, root.T), full_matrices=False)
        return Svd(matmul(q, u), s, jnp.zeros((s.shape[0], leaf["a"].shape[1])))

    svds: Any = map_modules(one_layer, adapter.factors, roots, factorises=True)
    return svds


def lssf(
    finetuned: Adapter, aligned: Adapter, statistics: Statistics, *, alpha: float = 1.0, share: float = 0.85
) -> Fused:
    """Add α times the alignment, projected on its directions on anchor data.

    Args:
      finetuned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: the aligned adapter.
      statistics: of the aligned model on the anchor data.
      alpha: α.
      share: η, share of the entropy.

    Raises:
      InputError: if the adapters do not match, or share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share}; expected above 0, at most 1")
    check_same_structure(aligned, finetuned, ("aligned", "fine-tuned"), rank=False)
    svds = _responses(aligned, statistics.root)
    ranks = {module: entropy_rank(svd.s, share) for module, svd in svds.items()}
    weights = {
        module: (jnp.arange(svd.s.shape[-1]) < ranks[module][:, None]).astype(jnp.float32)
        for module, svd in svds.items()
    }
    return Fused(weighted_sum((finetuned, project(aligned, svds, weights)), (1.0, alpha)), ranks)
