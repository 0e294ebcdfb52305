"""Low-rank projection of the factors on the directions that the calibration data excites.

For a factor W with inputs X, ``Ŵ = U Uᵀ W`` with U the first r* left singular vectors of ``W X``
minimises ``‖W X − Ŵ X‖_F`` over rank r*. With ``Z = A X = Rᵀ Qᵀ`` (R from the statistics):

- A: the left singular vectors of Z are the right singular vectors of R;
- B: ``B Z = (B Rᵀ) Qᵀ``; with a triangular root ``R_B`` of ``BᵀB`` the right singular vectors V' of
  the r × r matrix ``R_B Rᵀ`` give ``U = B Rᵀ V' / σ``.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, identification of safety-critical neurons; the rank rule follows DELLA (Deep et al. 2024).
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from nlsr_jax import hardware
from nlsr_jax.adapter import Adapter
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.statistics import (
    Statistics,
    cholesky_root,
    matmul,
    update_root,
    well_conditioned,
)

_MATCH = 1e-3


def kept_rank(rank: int, sparsity: float) -> int:
    """Return ``r* = round(r · (1 − P_SR))``, at least 1."""
    return max(1, round(rank * (1 - sparsity)))


def _trusted_root(root, gram):
    """Return the root if it reproduces the Gram matrix, else one computed from the Gram matrix."""
    error = jnp.linalg.norm(matmul(root.T, root) - gram)
    match = error <= _MATCH * jnp.linalg.norm(gram)
    return jnp.where(match, root, cholesky_root(gram))


def _project_a(a, root, kept):
    top = jnp.linalg.svd(root, full_matrices=False)[2][:kept]
    return matmul(top.T, matmul(top, a))


def _project_b(b, root, kept):
    b_root = update_root(jnp.zeros_like(root), b)
    _, s, vt = jnp.linalg.svd(matmul(b_root, root.T), full_matrices=False)
    u = matmul(b, matmul(root.T, vt[:kept].T) * _inverse(s)[:kept])
    return matmul(u, matmul(u.T, b))


def _inverse(s):
    """Invert the singular values ``[r]`` of a matrix, largest first; those at rounding level give 0."""
    least = len(s) * jnp.finfo(s.dtype).eps * s[0]
    return jnp.where(s > least, 1 / jnp.where(s > 0, s, 1.0), 0.0)


def _project_large(a, b, gram, root, kept):
    """Do the same as ``_project_a`` and ``_project_b`` with one product with a factor, or two thin ones.

    With U' the first left singular vectors of ``M = R_B Rᵀ`` the projector of B is ``B (R_B⁻¹ U') (U'ᵀ R_B)``.
    Eigenvectors of the r × r matrices ``G`` and ``M Mᵀ`` suffice if these are well-conditioned.
    """
    values, vectors = jnp.linalg.eigh(gram.astype(root.dtype))
    top = jax.lax.cond(
        well_conditioned(values),
        lambda: vectors[:, -kept:],
        lambda: jnp.linalg.svd(root, full_matrices=False)[2][:kept].T,
    )
    b_root = update_root(jnp.zeros_like(root), b)
    product = matmul(b_root, root.T)
    values, vectors = jnp.linalg.eigh(matmul(product, product.T))

    def from_eigenvectors():
        u = vectors[:, -kept:]
        return jax.scipy.linalg.solve_triangular(b_root, u), u

    def from_singular_vectors():
        u, s, vt = jnp.linalg.svd(product, full_matrices=False)
        return matmul(root.T, vt[:kept].T) * _inverse(s)[:kept], u[:, :kept]

    left, u = jax.lax.cond(well_conditioned(values), from_eigenvectors, from_singular_vectors)
    right = matmul(u.T, b_root)
    if 2 * kept > len(root):
        return matmul(matmul(top, top.T), a), matmul(b, matmul(left, right))
    return matmul(top, matmul(top.T, a)), matmul(matmul(b, left), right)


def project_layer(
    factors: Mapping[str, jax.Array], gram: jax.Array, root: jax.Array, kept: int
) -> dict[str, jax.Array]:
    """Return ``{"a": Â [r, k], "b": B̂ [d, r]}`` of one layer, float32."""
    root = _trusted_root(root, gram)
    a, b = factors["a"].astype(jnp.float32), factors["b"].astype(jnp.float32)
    if hardware.branches(len(root)):
        a, b = _project_large(a, b, gram, root, kept)
    else:
        a, b = _project_a(a, root, kept), _project_b(b, root, kept)
    return {"a": a, "b": b}


@functools.partial(jax.jit, static_argnames="sparsity")
def project_low_rank(reference: Adapter, statistics: Statistics, *, sparsity: float = 0.8) -> Adapter:
    """Project each factor on its r* most excited directions.

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
