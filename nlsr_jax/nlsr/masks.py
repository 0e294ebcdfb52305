"""Exact top-k masks without a sort.

Non-negative floats have the same order as their bit patterns, so the k-th largest is found by bisection on the
31 bits, with one counting pass each. Ties are then broken by index, so that exactly ``k`` entries are kept and the
mask is the same on every device. For arrays in host memory, NumPy's partition finds the same k-th largest several
times faster.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax import hardware
from nlsr_jax.types import Gradients, Masks


def kept_count(size: int, sparsity: float) -> int:
    """Return ``top = round((1 − P_SR) · size)``, the number of entries that a mask keeps."""
    return round((1 - sparsity) * size)


def _bits(scores):
    """Return order-preserving integers of non-negative floats; −0 counts as 0."""
    return jax.lax.bitcast_convert_type(jnp.abs(scores.astype(jnp.float32)), jnp.int32)


def _threshold(bits, count):
    """Return the ``count``-th largest of ``bits`` by bisection: the largest t with #(bits ≥ t) ≥ count."""

    def step(i, low):
        candidate = low | (1 << (30 - i))
        enough = jnp.sum(bits >= candidate, dtype=jnp.int32) >= count
        return jnp.where(enough, candidate, low)

    return jax.lax.fori_loop(0, 31, step, jnp.int32(0))


def _tie_end(ties, wanted):
    """Return the smallest index bound that includes ``wanted`` of the ties, by bisection on the index."""
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
      count: number of entries to keep, 0 … n; may be traced.

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
        ``round((1−P_SR)·n)`` entries of each row.

    Returns:
      ``[m, n]`` bool.
    """
    if granularity == "tensor":
        return top_mask(scores.reshape(-1), kept_count(scores.size, sparsity)).reshape(scores.shape)
    count = kept_count(scores.shape[-1], sparsity)
    return jax.vmap(lambda row: top_mask(row, count))(scores)


def mask_tree(scores: Gradients, sparsity: float) -> Masks:
    """Mask all factors with one threshold.

    Args:
      scores: per-module tree of non-negative scores.
      sparsity: P_SR in (0, 1); ``round((1−P_SR)·n)`` of all n entries are kept, ties in favour of the earlier
        entry in the order of the tree's leaves.

    Returns:
      Bool tree.
    """
    leaves, structure = jax.tree.flatten(scores)
    flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    mask = top_mask(flat, kept_count(flat.size, sparsity))
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))[:-1]
    parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(mask, ends), leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def host_top_mask(scores: np.ndarray, count: int) -> np.ndarray:
    """Mark the ``count`` largest scores as ``top_mask`` does, in host memory.

    Args:
      scores: ``[n]`` float32, non-negative, finite.
      count: number of entries to keep, 0 … n.

    Returns:
      ``[n]`` bool with exactly ``count`` True entries.

    >>> host_top_mask(np.array([1.0, 3.0, 3.0, 3.0], np.float32), 2).tolist()
    [False, True, True, False]
    """
    if count == 0:
        return np.zeros(scores.shape, bool)
    return _marked(scores, np.partition(scores, scores.size - count)[scores.size - count], count)


def _marked(scores: np.ndarray, threshold: np.float32, count: int) -> np.ndarray:
    """Mark the ``count`` largest scores, down to ``threshold``, ties in favour of the smaller index."""
    mask = scores >= threshold
    spare = np.count_nonzero(mask) - count
    if spare:
        mask[np.flatnonzero(scores == threshold)[-spare:]] = False
    return mask


def host_mask_factor(scores: np.ndarray, sparsity: float, granularity: str) -> np.ndarray:
    """Mask one factor of one layer, ``[m, n]`` scores, as ``mask_factor`` does, in host memory."""
    if granularity == "tensor":
        return host_top_mask(scores.reshape(-1), kept_count(scores.size, sparsity)).reshape(scores.shape)
    count = kept_count(scores.shape[-1], sparsity)
    return np.stack([host_top_mask(row, count) for row in scores])


def host_mask_tree(scores: Gradients, sparsity: float) -> Masks:
    """Mask all factors with one threshold as ``mask_tree`` does, in host memory."""
    return HostTree(scores).mask(sparsity)


class HostTree:
    """Masks of all factors with one threshold as ``mask_tree`` makes them, in host memory, for several sparsities.

    The scores are sorted when the second mask is asked for.

    Args:
      scores: per-module tree of non-negative scores.
    """

    def __init__(self, scores: Gradients):
        leaves, self._structure = jax.tree.flatten(scores)
        self._shapes = [leaf.shape for leaf in leaves]
        self._flat = np.concatenate([np.asarray(leaf).reshape(-1) for leaf in leaves])
        self._ends = list(itertools.accumulate(leaf.size for leaf in leaves))[:-1]
        self._sorted: np.ndarray | None = None
        self._asked = False

    def mask(self, sparsity: float) -> Masks:
        """Mask ``round((1−P_SR)·n)`` of all n entries; see ``mask_tree``."""
        mask = self._top(kept_count(self._flat.size, sparsity))
        parts = zip(np.split(mask, self._ends), self._shapes, strict=True)
        return jax.tree.unflatten(self._structure, [jax.device_put(part.reshape(shape)) for part, shape in parts])

    def _top(self, count: int) -> np.ndarray:
        if self._asked and self._sorted is None:
            self._sorted = np.sort(self._flat)
        self._asked = True
        if self._sorted is None or count == 0:
            return host_top_mask(self._flat, count)
        return _marked(self._flat, self._sorted[-count], count)


def host_mask_layers(scores: Gradients, sparsity: float, granularity: str) -> Masks:
    """Mask each layer of stacked factors as ``mask_layers`` does, in host memory."""

    def stacked(leaf):
        return jax.device_put(np.stack([host_mask_factor(s, sparsity, granularity) for s in np.asarray(leaf)]))

    return jax.tree.map(stacked, scores)


def mask_layers(scores: Gradients, sparsity: float, granularity: str = "tensor") -> Masks:
    """Mask each layer of stacked factors separately.

    Args:
      scores: tree of ``[L, m, n]`` non-negative scores.
      sparsity: P_SR in (0, 1).
      granularity: ``"tensor"`` or ``"row"``; see ``mask_factor``.

    Returns:
      Bool tree of the same shapes.
    """
    way = host_mask_layers if hardware.selects_on_host(scores) else _compiled_mask_layers
    return way(scores, sparsity, granularity)


@functools.partial(jax.jit, static_argnames=("sparsity", "granularity"))
def _compiled_mask_layers(scores, sparsity, granularity):
    return jax.tree.map(lambda leaf: jax.lax.map(lambda s: mask_factor(s, sparsity, granularity), leaf), scores)
