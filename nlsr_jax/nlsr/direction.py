"""The direction of an alignment, V = W_aligned − W_pretrained, in factors: one truncated SVD per module.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Halko, Martinsson and Tropp 2011 for the randomised decomposition; LoX (Perin et al. 2025) for the use of V.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.nlsr.statistics import matmul

EXACT_SIZE = 512
"""Matrices whose smaller side is at most this are decomposed exactly."""
OVERSAMPLING = 16
"""Additional random directions (oversampling) of the randomised decomposition."""
POWER_ITERATIONS = 4
"""Number of power iterations with V Vᵀ; each one reduces the error of the leading directions."""


class Direction(NamedTuple):
    """V in factored form.

    Attributes:
      adapter: factors ``a [L, r_V, k]`` and ``b [L, d, r_V]`` float32, scaling 1.
      residual: ``{module: [L]}`` float32, ‖V − B_V A_V‖_F / ‖V‖_F; 0 if V is 0.
    """

    adapter: Adapter
    residual: Mapping[str, Any]


@functools.partial(jax.jit, static_argnames="rank")
def factor_matrix(key: jax.Array, matrix: jax.Array, rank: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Factor one matrix by its leading singular vectors, with √σ in both factors.

    Args:
      key: PRNG key of the randomised decomposition; not used for small matrices, which are decomposed exactly.
      matrix: ``[d, k]`` float32.
      rank: r, at most the smaller side.

    Returns:
      ``(a [r, k], b [d, r], residual [])`` float32; ``b @ a`` is the best approximation of that rank, and the
      residual is relative, in the Frobenius norm.
    """
    if min(matrix.shape) <= max(EXACT_SIZE, rank + OVERSAMPLING):
        u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    else:
        u, s, vt = _randomised(key, matrix, rank + OVERSAMPLING)
    half = jnp.sqrt(s[:rank])
    a, b = half[:, None] * vt[:rank], u[:, :rank] * half
    norm = jnp.linalg.norm(matrix)
    residual = jnp.linalg.norm(matrix - matmul(b, a)) / jnp.where(norm > 0, norm, 1.0)
    return a, b, residual


def _randomised(key, matrix, size):
    """Return the leading ``size`` singular triplets, from the range of ``matrix`` on random vectors."""
    basis, _ = jnp.linalg.qr(matmul(matrix, jax.random.normal(key, (matrix.shape[1], size))))

    def power(_, basis):
        other, _ = jnp.linalg.qr(matmul(matrix.T, basis))
        return jnp.linalg.qr(matmul(matrix, other))[0]

    basis = jax.lax.fori_loop(0, POWER_ITERATIONS, power, basis)
    u, s, vt = jnp.linalg.svd(matmul(basis.T, matrix), full_matrices=False)
    return matmul(basis, u), s, vt
