"""The subspace that an adapter writes to or reads from, and projections on it; used by several defenses.

Everything is computed in the factors; a module's weight update ``V = scaling · B A`` is never formed.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule, layer_scaling
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.statistics import matmul

SIDES = ("output", "input")
TOLERANCE = 1e-5
"""Singular values below this share of the largest count as zero, so that noise does not span a subspace."""


class Svd(NamedTuple):
    """Thin singular value decomposition of a weight update: ``u [L, d, r]``, ``s [L, r]``, ``vt [L, r, k]``."""

    u: jax.Array
    s: jax.Array
    vt: jax.Array


def _svd(leaf, scaling) -> Svd:
    a, b = leaf["a"].astype(jnp.float32), leaf["b"].astype(jnp.float32)
    q_b, r_b = jnp.linalg.qr(b)
    q_a, r_a = jnp.linalg.qr(a.T)
    u, s, vt = jnp.linalg.svd(scaling * matmul(r_b, r_a.T), full_matrices=False)
    return Svd(matmul(q_b, u), s, matmul(vt, q_a.T))


@jax.jit
def decompose(adapter: Adapter) -> dict[str, Svd]:
    """Decompose each weight update ``scaling · B A`` by QR of both factors and an SVD of one r × r matrix.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``.

    Returns:
      ``{module: Svd}`` float32, singular values in descending order.
    """
    scalings = {module: jnp.asarray(layer_scaling(adapter, module)) for module in adapter.factors}
    svds: Any = map_modules(_svd, adapter.factors, scalings, factorises=True)
    return svds


def exact_weights(svd: Svd) -> jax.Array:
    """Return weights ``[L, r]`` of the orthogonal projector on the update's subspace: 1 up to its rank, then 0."""
    return (svd.s > TOLERANCE * svd.s[:, :1]).astype(jnp.float32)


def fast_weights(svd: Svd) -> jax.Array:
    """Return weights ``[L, r]`` of ``V Vᵀ / ‖V‖_F``, SafeLoRA's approximation; not idempotent, not bounded by 1."""
    norm = jnp.linalg.norm(svd.s, axis=-1, keepdims=True)
    return jnp.where(norm > 0, jnp.square(svd.s) / jnp.where(norm > 0, norm, 1.0), 0.0)


def project(adapter: Adapter, svds: dict[str, Svd], weights: PerModule, side: str = "output") -> Adapter:
    """Apply ``C = Σ wᵢ uᵢ uᵢᵀ`` to the output of each module, or ``Σ wᵢ vᵢ vᵢᵀ`` to its input.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      svds: the singular vectors; their rank may differ from the adapter's.
      weights: ``{module: [L, r]}``.
      side: ``"output"``: ``B ← C B``; ``"input"``: ``A ← A C``.

    Returns:
      An adapter with the same rank, dtype and scaling.

    Raises:
      InputError: if the side is unknown.
    """
    if side not in SIDES:
        raise InputError(f"side is {side!r}; expected one of {', '.join(SIDES)}")
    return _project(adapter, svds, weights, side == "output")


def _project(adapter, svds, weights, output):
    def one_layer(leaf, svd, weight):
        a, b = leaf["a"].astype(jnp.float32), leaf["b"].astype(jnp.float32)
        if output:
            b = matmul(svd.u, weight[:, None] * matmul(svd.u.T, b))
        else:
            a = matmul(matmul(a, svd.vt.T) * weight, svd.vt)
        return {"a": a.astype(leaf["a"].dtype), "b": b.astype(leaf["b"].dtype)}

    factors = map_modules(one_layer, adapter.factors, svds, weights)
    return dataclasses.replace(adapter, factors=factors)


def choose_layers(chosen: PerModule, first: Adapter, second: Adapter) -> Adapter:
    """Take the layers of ``first`` where ``chosen [L]`` is True, else those of ``second``, bit for bit."""

    def one(module, factor):
        flags = jnp.asarray(chosen[module])[:, None, None]
        return jnp.where(flags, first.factors[module][factor], second.factors[module][factor])

    factors = {m: {f: one(m, f) for f in ("a", "b")} for m in first.factors}
    return dataclasses.replace(second, factors=factors)
