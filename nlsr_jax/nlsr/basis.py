"""A common basis of the rank axis for adapters that do not share a lineage.

``(A, B) → (T A, B T⁻¹)`` does not change the product, for any invertible T. Two adapters with the same product may
therefore have nothing in common entry by entry, but masks and transplant compare entries. This module chooses T so
that an adapter is as close as possible to the aligned one.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: orthogonal Procrustes problem, Schönemann 1966.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, check_same_structure
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.settings import BASES
from nlsr_jax.nlsr.statistics import matmul

_RIDGE = 1e-6
_SINGULAR = 1e-4


def _normal(matrix):
    norm = jnp.linalg.norm(matrix)
    return matrix / jnp.where(norm > 0, norm, 1.0)


def _procrustes(a, b, aligned_a, aligned_b):
    """Return the rotation T that brings ``T A`` and ``B Tᵀ`` closest to the aligned factors, equally weighted."""
    near = matmul(_normal(aligned_a), _normal(a).T) + matmul(_normal(aligned_b).T, _normal(b))
    u, _, vt = jnp.linalg.svd(near)
    turn = matmul(u, vt)
    return matmul(turn, a), matmul(b, turn.T)


def _linear(a, b, aligned_a, aligned_b):
    """Return the least-squares T of ``‖T A − A_aligned‖``, which undoes any invertible change of basis."""
    gram = matmul(a, a.T)
    gram += _RIDGE * jnp.trace(gram) / gram.shape[0] * jnp.eye(gram.shape[0])
    turn = jnp.linalg.solve(gram, matmul(a, aligned_a.T)).T
    s = jnp.linalg.svd(turn, compute_uv=False)
    sound = s[-1] > _SINGULAR * s[0]  # also False for NaN
    turn = jnp.where(sound, turn, jnp.eye(turn.shape[0]))
    other_a, other_b = _procrustes(a, b, aligned_a, aligned_b)
    turned_b = jnp.linalg.solve(turn.T, b.T).T
    return jnp.where(sound, matmul(turn, a), other_a), jnp.where(sound, turned_b, other_b)


_TURN = {"procrustes": _procrustes, "linear": _linear}


def check_basis(basis: str) -> None:
    """Raise InputError unless ``basis`` is one of ``BASES``."""
    if basis not in BASES:
        raise InputError(f"basis is {basis!r}; expected one of {', '.join(BASES)}")


def common_basis(adapter: Adapter, aligned: Adapter, *, method: str = "procrustes") -> Adapter:
    """Rotate the rank axis of an adapter towards the aligned adapter's; its weight updates do not change.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: the aligned adapter, of the same shapes.
      method: ``"procrustes"``: a rotation; ``"linear"``: any invertible matrix, for adapters that another program
        has refactored, for instance with a singular value decomposition, falling back to the rotation if no matrix
        is invertible; ``"as_is"``: no change.

    Returns:
      The adapter in the new basis, with the same dtype and scaling. Its products are equal up to rounding.

    Raises:
      InputError: if the method is unknown, or the adapters do not match.
    """
    check_basis(method)
    check_same_structure(aligned, adapter, ("aligned", "fine-tuned"))
    if method == "as_is":
        return adapter
    return dataclasses.replace(adapter, factors=_common_basis(adapter.factors, aligned.factors, method=method))


@functools.partial(jax.jit, static_argnames="method")
def _common_basis(factors, aligned, *, method):
    def one_layer(leaf, other):
        wide = [x.astype(jnp.float32) for x in (leaf["a"], leaf["b"], other["a"], other["b"])]
        a, b = _TURN[method](*wide)
        return {"a": a.astype(leaf["a"].dtype), "b": b.astype(leaf["b"].dtype)}

    return map_modules(one_layer, factors, aligned, factorises=True)


def turned(key: jax.Array, adapter: Adapter) -> Adapter:
    """Rotate the rank axis of each layer at random; the weight updates do not change.

    Args:
      key: PRNG key.
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``.

    Returns:
      An adapter with the same products whose entries are unrelated to the given one's.
    """

    def one(module, number):
        leaf = adapter.factors[module]
        count, rank, _ = leaf["a"].shape
        rotation = jax.random.orthogonal(jax.random.fold_in(key, number), rank, (count,))
        a, b = (leaf[factor].astype(jnp.float32) for factor in ("a", "b"))
        new = {"a": matmul(rotation, a), "b": matmul(b, jnp.swapaxes(rotation, 1, 2))}
        return {factor: value.astype(leaf[factor].dtype) for factor, value in new.items()}

    factors = {module: one(module, number) for number, module in enumerate(sorted(adapter.factors))}
    return dataclasses.replace(adapter, factors=factors)
