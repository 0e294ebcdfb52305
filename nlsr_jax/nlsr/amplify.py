"""Pre-amplification: extrapolate from the weak through the aligned adapter to the safety reference.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, section on pre-amplification (ExPO, Zheng et al. 2024): ``W_e = Wₐ + β (Wₐ − W₀)``.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import (
    Adapter,
    check_adapter,
    check_same_structure,
    concatenate,
    truncate,
)
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.settings import SPACES
from nlsr_jax.nlsr.statistics import matmul


def amplify(
    aligned: Adapter,
    weak: Adapter | None = None,
    *,
    beta: float = 0.9,
    space: str = "factors",
    rank: int | None = None,
) -> Adapter:
    """Extrapolate from the weak adapter through the aligned one: ``W_e = Wₐ + β (Wₐ − W₀)``.

    With a strong and a weak adapter, ``β = α − 1`` in (−1, 0) interpolates: ``α W_strong + (1−α) W_weak``.
    Starting from such a medium adapter, ``β = (1−α)/α`` recovers the strong one.

    Under ``jit`` no values are checked: entries outside the range of the dtype become infinite or 0.
    ``save_adapter`` refuses values that are not finite.

    Args:
      aligned: Wₐ, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      weak: W₀ over the same base; None if it was merged into the base (then W₀ = 0).
      beta: the coefficient β, any float (traced: changing it does not recompile).
      space: ``"factors"`` applies the formula to ``a`` and to ``b`` (the rank stays r; with W₀ = 0 the
        product is scaled by (1+β)²); ``"product"`` applies it to ``B A`` exactly, as one adapter
        of rank r + r₀ by concatenation (rank r if W₀ = 0).
      rank: truncate to this rank (best approximation). In product space with ``rank = r`` the result is
        expressed in the basis of ``aligned``, so that its entries are comparable with those of adapters that
        descend from it.

    Returns:
      The reference adapter W_e, with dtype and scaling of ``aligned``.

    Raises:
      InputError: if ``space`` is unknown, ``rank`` is below 1, or the adapters do not match.

    >>> import jax.numpy as jnp
    >>> aligned = Adapter({"q_proj": {"a": jnp.ones((1, 1, 2)), "b": jnp.ones((1, 2, 1))}})
    >>> float(amplify(aligned, beta=0.5).factors["q_proj"]["a"][0, 0, 0])
    1.5
    """
    if space not in SPACES:
        raise InputError(f"space is {space!r}; expected one of {', '.join(SPACES)}")
    if rank is not None and rank < 1:
        raise InputError(f"rank is {rank}; expected at least 1")
    if weak is None:
        check_adapter(aligned, "aligned")
    else:
        check_same_structure(aligned, weak, ("aligned", "weak"), rank=space == "factors")
    return amplify_checked(aligned, weak, beta=beta, space=space, rank=rank)


def amplify_checked(
    aligned: Adapter, weak: Adapter | None, *, beta: float | jax.Array, space: str, rank: int | None
) -> Adapter:
    """Amplify adapters that are known to fit each other; see ``amplify``."""
    reference = _AMPLIFY[space](aligned, weak, jnp.float32(beta))
    if rank is None or all(f["a"].shape[1] <= rank for f in reference.factors.values()):
        return reference
    return _in_basis_of(aligned, truncate(reference, rank))


@jax.jit
def _amplify_factors(aligned, weak, beta):
    def extrapolate(strong, base):
        return (strong + beta * (strong - base)).astype(strong.dtype)

    if weak is None:
        return jax.tree.map(lambda leaf: extrapolate(leaf, jnp.float32(0)), aligned)
    factors = jax.tree.map(extrapolate, aligned.factors, weak.factors)
    return dataclasses.replace(aligned, factors=factors)


@jax.jit
def _amplify_product(aligned, weak, beta):
    if weak is not None:
        return concatenate(aligned, weak, (1 + beta, -beta))
    factors = {
        module: {"a": leaf["a"], "b": ((1 + beta) * leaf["b"]).astype(leaf["b"].dtype)}
        for module, leaf in aligned.factors.items()
    }
    return dataclasses.replace(aligned, factors=factors)


_AMPLIFY = {"factors": _amplify_factors, "product": _amplify_product}


@functools.partial(jax.jit, donate_argnums=1)
def _in_basis_of(aligned: Adapter, adapter: Adapter) -> Adapter:
    """Re-express the rank axis of ``adapter`` so that its ``a`` is closest to that of ``aligned``.

    ``(A, B) → (G A, B G⁻¹)`` does not change ``B A``; ``G`` is the least-squares solution of
    ``G A ≈ Aₐ``. If the row spaces share too little to invert ``G`` safely, its nearest
    orthogonal matrix (Procrustes) is used.
    """

    def one_layer(leaf, target):
        a, b = leaf["a"].astype(jnp.float32), leaf["b"].astype(jnp.float32)
        cross = matmul(target["a"].astype(jnp.float32), a.T)
        gram = matmul(a, a.T)
        solved = jnp.linalg.lstsq(gram, cross.T)[0].T
        u, s, vt = jnp.linalg.svd(solved)
        safe = s[-1] > 1e-4 * s[0]
        change = jnp.where(safe, solved, matmul(u, vt))
        inverse = matmul(vt.T / jnp.where(safe, s, 1.0), u.T)
        return {
            "a": matmul(change, a).astype(leaf["a"].dtype),
            "b": matmul(b, inverse).astype(leaf["b"].dtype),
        }

    same = {m: f["a"].shape[1] == aligned.factors[m]["a"].shape[1] for m, f in adapter.factors.items()}
    alike = {m: f for m, f in adapter.factors.items() if same[m]}
    moved = map_modules(one_layer, alike, aligned.factors, factorises=True)
    return dataclasses.replace(adapter, factors={**adapter.factors, **moved})
