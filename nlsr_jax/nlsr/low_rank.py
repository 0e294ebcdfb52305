"""Low-rank projection of the factors on what the calibration data excites.

For a factor W with inputs X, ``Ŵ = U Uᵀ W`` with U the first r* left singular vectors of ``W X``
minimises ``‖W X − Ŵ X‖_F`` over rank r*. With ``Z = A X = Rᵀ Qᵀ`` (R from the statistics):

- A: the left singular vectors of Z are the right singular vectors of R;
- B: ``B Z = (B Rᵀ) Qᵀ``; with a triangular root ``R_B`` of ``BᵀB`` the right singular vectors V' of
  the r × r matrix ``R_B Rᵀ`` give ``U = B Rᵀ V' / σ``.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, identification of safety-critical neurons; the rank rule follows DELLA (Deep et al. 2024).
"""

import functools

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.statistics import Statistics, cholesky_root, matmul, update_root

_MATCH = 1e-3


def kept_rank(rank: int, sparsity: float) -> int:
    """Return ``r* = round(r · (1 − P_SR))``, at least 1."""
    return max(1, round(rank * (1 - sparsity)))


def _trusted_root(root, gram):
    """Return the root where it reproduces the Gram matrix, else one made from the Gram matrix."""
    error = jnp.linalg.norm(matmul(root.T, root) - gram)
    match = error <= _MATCH * jnp.linalg.norm(gram)
    return jnp.where(match, root, cholesky_root(gram))


def _project_a(a, root, kept):
    top = jnp.linalg.svd(root, full_matrices=False)[2][:kept]
    return matmul(top.T, matmul(top, a))


def _project_b(b, root, kept):
    b_root = update_root(jnp.zeros_like(root), b)
    _, s, vt = jnp.linalg.svd(matmul(b_root, root.T), full_matrices=False)
    s, vt = s[:kept], vt[:kept]
    # A direction without response (fewer positions than r*, a zero factor) belongs to no projector.
    inverse = jnp.where(s > jnp.finfo(s.dtype).eps * s[0], 1 / jnp.where(s > 0, s, 1.0), 0.0)
    u = matmul(b, matmul(root.T, vt.T) * inverse)
    return matmul(u, matmul(u.T, b))


def project_layer(factors, gram, root, kept):
    """Return ``{"a": Â [r, k], "b": B̂ [d, r]}`` of one layer, float32."""
    root = _trusted_root(root, gram)
    return {
        "a": _project_a(factors["a"].astype(jnp.float32), root, kept),
        "b": _project_b(factors["b"].astype(jnp.float32), root, kept),
    }


@functools.partial(jax.jit, static_argnames="sparsity")
def project_low_rank(reference: Adapter, statistics: Statistics, *, sparsity: float = 0.8) -> Adapter:
    """Project every factor on its r* most excited directions.

    Args:
      reference: W_e, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      statistics: of the reference on the calibration data.
      sparsity: P_SR in (0, 1); ``r* = round(r · (1 − P_SR))``, at least 1.

    Returns:
      An adapter of the same shapes with ``Ŵ = U Uᵀ W`` as factors, float32.
    """
    factors = {}
    for module, leaf in reference.factors.items():
        kept = kept_rank(leaf["a"].shape[1], sparsity)
        factors[module] = map_layers(
            functools.partial(project_layer, kept=kept),
            leaf,
            statistics.gram[module],
            statistics.root[module],
            factorises=True,
        )
    return Adapter(factors, reference.scaling, reference.layers)
