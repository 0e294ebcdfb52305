"""Exact top-k masks without a sort.

Non-negative floats are ordered as their bit patterns are, so the k-th largest is found by bisection
on the 31 bits: one counting pass each. Ties are then broken by index, so that exactly ``k`` entries are
kept and the mask is the same on every device.
"""

import itertools

import jax
import jax.numpy as jnp

GRANULARITIES = ("row", "tensor", "adapter")


def kept_count(size: int, sparsity: float) -> int:
    """Return ``top = round((1 − P_SR) · size)``: how many of ``size`` entries a mask keeps."""
    return round((1 - sparsity) * size)


def _bits(scores):
    """Order-preserving integers of non-negative floats; −0 counts as 0."""
    return jax.lax.bitcast_convert_type(jnp.abs(scores.astype(jnp.float32)), jnp.int32)


def _threshold(bits, count):
    """The ``count``-th largest of ``bits`` by bisection: the largest t with #(bits ≥ t) ≥ count."""

    def step(i, low):
        candidate = low | (1 << (30 - i))
        enough = jnp.sum(bits >= candidate, dtype=jnp.int32) >= count
        return jnp.where(enough, candidate, low)

    return jax.lax.fori_loop(0, 31, step, jnp.int32(0))


def _tie_end(ties, wanted):
    """The smallest index bound that holds ``wanted`` of the ties: bisection on the index."""
    index = jnp.arange(ties.size, dtype=jnp.int32)

    def step(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        enough = jnp.sum(ties & (index < middle), dtype=jnp.int32) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    rounds = max(1, ties.size.bit_length())
    return jax.lax.fori_loop(0, rounds, step, (jnp.int32(0), jnp.int32(ties.size)))[1]


def top_mask(scores: jax.Array, count: int | jax.Array) -> jax.Array:
    """Mark the ``count`` largest scores, ties in favour of the smaller index.

    Args:
      scores: ``[n]`` non-negative, finite, any float dtype (compared as float32).
      count: how many to keep, 0 … n; may be traced.

    Returns:
      ``[n]`` bool with exactly ``count`` True entries.

    >>> top_mask(jnp.array([1.0, 3.0, 3.0, 3.0]), 2).tolist()
    [False, True, True, False]
    """
    bits = _bits(scores)
    threshold = _threshold(bits, count)
    above, ties = bits > threshold, bits == threshold
    wanted = count - jnp.sum(above, dtype=jnp.int32)
    spare = jnp.sum(ties, dtype=jnp.int32) > wanted
    end = jax.lax.cond(spare, lambda: _tie_end(ties, wanted), lambda: jnp.int32(ties.size))
    return above | (ties & (jnp.arange(ties.size, dtype=jnp.int32) < end))


def mask_factor(scores: jax.Array, sparsity: float, granularity: str) -> jax.Array:
    """Mask one factor of one layer by its scores.

    Args:
      scores: ``[m, n]`` non-negative scores.
      sparsity: P_SR in (0, 1).
      granularity: ``"tensor"`` keeps ``round((1−P_SR)·m·n)`` entries of the factor, ``"row"``
        ``round((1−P_SR)·n)`` of each row.

    Returns:
      ``[m, n]`` bool.
    """
    if granularity == "tensor":
        return top_mask(scores.reshape(-1), kept_count(scores.size, sparsity)).reshape(scores.shape)
    count = kept_count(scores.shape[-1], sparsity)
    return jax.vmap(lambda row: top_mask(row, count))(scores)


def mask_tree(scores, sparsity: float):
    """Mask all factors by one threshold.

    Args:
      scores: per-module tree of non-negative scores.
      sparsity: P_SR in (0, 1); ``round((1−P_SR)·n)`` of all n entries are kept, ties in favour of the earlier
        in the order of the tree's leaves.

    Returns:
      Bool tree.
    """
    leaves, structure = jax.tree.flatten(scores)
    flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    mask = top_mask(flat, kept_count(flat.size, sparsity))
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))[:-1]
    parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(mask, ends), leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)
