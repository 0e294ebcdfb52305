"""LoX: extrapolate the top singular directions of the alignment before the customer's fine-tuning.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Perin et al., LoX, 2025 (arXiv 2506.15606): ``W ← W_aligned + c · U_k S_k V_kᵀ``, the truncated SVD of
``W_aligned − W_base``. The closest relative of NLSR's amplification, which extrapolates after the fine-tuning.
"""

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, check_adapter
from nlsr_jax.defenses.subspace import decompose, project
from nlsr_jax.errors import InputError


def lox(aligned: Adapter, *, rank: int = 6, coefficient: float = 1.25) -> Adapter:
    """Extrapolate the aligned adapter.

    ``U_k U_kᵀ V`` equals ``U_k S_k V_kᵀ``, so the extrapolation only projects ``b``: ``a``, the rank and the
    rank axis are unchanged.

    Args:
      aligned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      rank: k; 0 for all directions.
      coefficient: c.

    Returns:
      The adapter that fine-tuning starts from.

    Raises:
      InputError: if rank is below 0.
    """
    if rank < 0:
        raise InputError(f"rank is {rank}; expected at least 0")
    check_adapter(aligned, "aligned")
    svds = decompose(aligned)
    weights = {}
    for module, svd in svds.items():
        top = (jnp.arange(svd.s.shape[-1]) < rank) | (rank == 0)
        weights[module] = jnp.broadcast_to(top, svd.s.shape).astype(jnp.float32) * coefficient
    raised = project(aligned, svds, weights)

    def add(leaf, extra):
        return (leaf.astype(jnp.float32) + extra.astype(jnp.float32)).astype(leaf.dtype)

    factors = {
        m: {"a": leaf["a"], "b": add(leaf["b"], raised.factors[m]["b"])} for m, leaf in aligned.factors.items()
    }
    return Adapter(factors, aligned.scaling, aligned.layers)
