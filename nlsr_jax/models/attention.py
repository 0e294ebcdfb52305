"""Attention with a derivative of its own, written so that no T × S array is ever transposed.

Matrix products take their operands in the order in which they lie in memory; where a derivative would need a large
array turned, the small factor is turned, and the small product is turned back.

Axis legend: B batch, T query, S key, K kv heads, G query heads per kv head, H head dim, Q = T · G.
Source: FlashAttention-2 (Dao 2023, arXiv 2307.08691) for the derivative from the logarithm of a row's sum.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nlsr_jax.models.norm import soft_cap
from nlsr_jax.models.product import product
from nlsr_jax.models.projection import PRODUCT

BLOCK = 64
"""From twice as many positions on, attention goes by blocks of a multiple of so many queries."""
_MOST = 8
_MASKED = -1e30


class Scaling(NamedTuple):
    """How scores become what the softmax takes.

    Attributes:
      scale: the factor; None for 1/√H.
      cap: c of ``c tanh(s / c)``; None for no cap.
    """

    scale: float | None = None
    cap: float | None = None

    def factor(self, head_dim: int) -> float:
        """Return the factor for heads of this width."""
        return head_dim**-0.5 if self.scale is None else self.scale


PLAIN = Scaling()


def queries_at_once(length: int) -> int:
    """Return how many queries attend at once where there are as many keys."""
    return length if length < 2 * BLOCK else max(BLOCK, -(-length // (_MOST * BLOCK)) * BLOCK)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: Scaling = PLAIN) -> jax.Array:
    """Return grouped-query attention, the softmax in float32.

    Args:
      q: ``[B, T, K, G, H]``.
      k, v: ``[B, K, S, H]``.
      mask: ``[B, T, S]`` bool, True where a query may attend. Where S is T, no query attends to a later key: long
        sequences are taken in blocks of queries, each with the keys up to its own last. A query that may attend
        nothing, as padding on the left, puts out 0 in a long sequence, and what means nothing in a short one.
      scaling: of the scores.

    Returns:
      ``[B, T, K, G, H]`` in the type of ``v``.
    """
    batch, length, heads, group, width = q.shape
    rows = jnp.swapaxes(q, 1, 2).reshape(batch, heads, length * group, width)
    spread = jnp.repeat(mask, group, axis=1)[:, None]
    block = queries_at_once(length)
    if k.shape[2] != length or block == length:
        out = _attend(rows, k, v, spread, scaling)
    else:
        found = []
        for start in range(0, length, block):
            end = min(start + block, length)
            part = slice(start * group, end * group)
            allowed = spread[:, :, part, :end]
            found.append(_attend_block(rows[:, :, part], k[:, :, :end], v[:, :, :end], allowed, scaling))
        out = jnp.concatenate(found, axis=2)
    return jnp.swapaxes(out.reshape(batch, heads, length, group, width), 1, 2)


def _scores(q, k, scaling: Scaling):
    scores = jnp.einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32)
    scores = scores * scaling.factor(q.shape[-1])
    return soft_cap(scores, scaling.cap)


def _masked_scores(q, k, mask, scaling: Scaling):
    return jnp.where(mask, _scores(q, k, scaling), _MASKED)


def _through_cap(d_scores, q, k, scaling: Scaling):
    """Return the derivative by the scores before the cap; they are made again."""
    if scaling.cap is None:
        return d_scores
    return d_scores * (1 - jnp.square(_scores(q, k, scaling) / scaling.cap))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, mask, scaling):
    """Attention of ``q [B, K, Q, H]`` under ``mask [B, 1, Q, S]``."""
    return _attend_forward(q, k, v, mask, scaling)[0]


def _attend_forward(q, k, v, mask, scaling):
    weights = jax.nn.softmax(_masked_scores(q, k, mask, scaling), axis=-1)
    return product("bkqs,bksh->bkqh", weights.astype(v.dtype), v), (q, k, v, weights)


def _attend_backward(scaling, saved, d_out):
    q, k, v, weights = saved
    scale = scaling.factor(q.shape[-1])
    d_v = _turned_product(d_out, weights.astype(v.dtype))
    d_weights = jnp.einsum("bkqh,bksh->bkqs", d_out, v, preferred_element_type=jnp.float32)
    d_scores = weights * (d_weights - jnp.sum(d_weights * weights, axis=-1, keepdims=True))
    d_scores = _through_cap(d_scores, q, k, scaling)
    d_scores = (d_scores * scale).astype(q.dtype)
    return product("bkqs,bksh->bkqh", d_scores, k), _turned_product(q, d_scores), d_v, None


def _turned_product(small, large):
    """Return ``largeᵀ small`` of the last two axes as ``(smallᵀ large)ᵀ``: XLA would turn the large one."""
    return jnp.swapaxes(jax.lax.optimization_barrier(product("bkqh,bkqs->bkhs", small, large)), -1, -2)


_attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend_block(q, k, v, mask, scaling):
    """``_attend``, with fewer passes over the scores, made again for the derivative instead of being kept.

    Short sequences keep the other order of operations, in which results were published to the byte.
    """
    return _attend_block_forward(q, k, v, mask, scaling)[0]


def _attend_block_forward(q, k, v, mask, scaling):
    scores = _masked_scores(q, k, mask, scaling)
    greatest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - greatest)
    # A query that may attend nothing puts out 0, and has no derivative.
    total = jnp.where(greatest > _MASKED / 2, jnp.sum(weights, axis=-1, keepdims=True), jnp.inf)
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    out = checkpoint_name(out.astype(v.dtype), PRODUCT)
    return out, (q, k, v, mask, out, checkpoint_name(greatest + jnp.log(total), PRODUCT))


def _attend_block_backward(scaling, saved, d_out):
    q, k, v, mask, out, level = saved
    weights = jnp.exp(_masked_scores(q, k, mask, scaling) - level)
    mean = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    d_v = _turned_product(d_out, weights.astype(v.dtype))
    d_weights = jnp.einsum("bkqh,bksh->bkqs", d_out, v, preferred_element_type=jnp.float32)
    d_scores = _through_cap(weights * (d_weights - mean), q, k, scaling)
    d_scores = (d_scores * scaling.factor(q.shape[-1])).astype(q.dtype)
    return product("bkqs,bksh->bkqh", d_scores, k), _turned_product(q, d_scores), d_v, None


_attend_block.defvjp(_attend_block_forward, _attend_block_backward)
