"""Weighted sums of adapters, exact or with PEFT's ``linear`` rule.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, check_same_structure, concatenate
from nlsr_jax.errors import InputError

SPACES = ("factors", "product")


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[float], *, space: str = "product") -> Adapter:
    """Return ``Σ wᵢ ΔWᵢ`` as one adapter.

    Args:
      adapters: adapters with the same modules and layers; in factor space also with the same rank and scaling.
      weights: one number per adapter.
      space: ``"product"`` is exact, and the ranks add up. ``"factors"`` sums each factor with the square roots of
        the weights, as PEFT's ``linear`` does: the rank stays r, cross terms appear, and a negative weight flips
        the sign of ``b``.

    Returns:
      An adapter with the scaling and dtype of the first. A single adapter of weight 1 is returned unchanged.

    Raises:
      InputError: if the space is unknown, there is not one weight per adapter, or the adapters do not match.
    """
    if space not in SPACES:
        raise InputError(f"space is {space!r}; expected one of {', '.join(SPACES)}")
    if not adapters or len(adapters) != len(weights):
        raise InputError(f"{len(weights)} weights for {len(adapters)} adapters; expected one for each")
    for i, other in enumerate(adapters[1:], 2):
        check_same_structure(adapters[0], other, ("adapter 1", f"adapter {i}"), rank=space == "factors")
    if space == "factors":
        return _sum_factors(adapters, weights)
    total = _scaled(adapters[0], weights[0])
    for adapter, weight in zip(adapters[1:], weights[1:], strict=True):
        total = concatenate(total, adapter, (1.0, weight))
    return total


def _scaled(adapter: Adapter, weight: float) -> Adapter:
    if weight == 1:
        return adapter
    factors = {
        m: {"a": leaf["a"], "b": (weight * leaf["b"].astype(jnp.float32)).astype(leaf["b"].dtype)}
        for m, leaf in adapter.factors.items()
    }
    return dataclasses.replace(adapter, factors=factors)


def _sum_factors(adapters, weights):
    def one(module, factor):
        leaves = [adapter.factors[module][factor] for adapter in adapters]
        roots = [jnp.sqrt(abs(w)) * (jnp.sign(w) if factor == "b" else 1.0) for w in weights]
        total = sum(root * leaf.astype(jnp.float32) for root, leaf in zip(roots, leaves, strict=True))
        return jnp.asarray(total).astype(leaves[0].dtype)

    factors = {m: {f: one(m, f) for f in ("a", "b")} for m in adapters[0].factors}
    return dataclasses.replace(adapters[0], factors=factors)
