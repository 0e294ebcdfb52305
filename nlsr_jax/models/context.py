"""What stands around the decoder layers: what they all see alike, what goes into them, and what is made of them.

Axis legend: B batch, T query, S key, D embed, H head dim, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.models.norm import rms_norm, soft_cap
from nlsr_jax.models.rotary import Rotary, rotary_embedding
from nlsr_jax.models.shared_prefix import pack


class Context(NamedTuple):
    """What every layer sees alike.

    Attributes:
      rotary: rotary embedding of the positions, leaves ``[B, T, 1, H/2]``.
      mask: ``[B, T, S]`` bool, True where a query may attend. Of packed rows S is P + T, and T does not count the
        prefix.
      near: ``[B, T, S]`` bool, True inside the attention window; None without windows.
      keep: ``[B, T]`` bool response positions for the statistics; None for all.
    """

    rotary: Rotary
    mask: jax.Array
    near: jax.Array | None
    keep: jax.Array | None


def make_context(
    config: ModelConfig,
    tokens: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    positions: jax.Array | None = None,
    keys: jax.Array | None = None,
    slot: jax.Array | int = 0,
    response_mask: jax.Array | None = None,
    rotary: Any = None,
    prefix: jax.Array | None = None,
) -> Context:
    """Return the context of a batch; for the arguments see ``Llama``.

    Args:
      config: of the model.
      tokens, attention_mask, positions, keys, response_mask, rotary: of the batch.
      slot: of the cache, where ``keys`` are given.
      prefix: shared by the rows; the batch then comes packed, see ``nlsr_jax.models.shared_prefix``.
    """
    if prefix is not None:
        return _packed_context(config, tokens, prefix, response_mask)
    attend = jnp.ones(tokens.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    if positions is None:
        positions = jnp.maximum(jnp.cumsum(attend, axis=-1, dtype=jnp.int32) - 1, 0)
    queries = jnp.arange(tokens.shape[1])
    if keys is not None:  # new positions against the cache
        attend, queries = keys, queries + slot
    slots = jnp.arange(attend.shape[1])
    mask = (slots <= queries[:, None]) & attend[:, None]
    near = None
    if config.window is not None:
        near = jnp.broadcast_to(queries[:, None] - slots < config.window, mask.shape)
    if rotary is None:
        rotary = rotary_embedding(config, positions)
    else:
        rotary = jax.tree.map(lambda table: table[positions], rotary)
    return Context(jax.tree.map(lambda leaf: leaf[:, :, None], rotary), mask, near, response_mask)


def _packed_context(config: ModelConfig, tokens, prefix, response) -> Context:
    """Return the context of rows ``[B, T]`` behind a prefix ``[P]``; its mask is ``[B, T, P + T]``."""
    (batch, length), ahead = tokens.shape, prefix.shape[0]
    positions = jnp.broadcast_to(jnp.arange(ahead, ahead + length), (batch, length))
    rotary = rotary_embedding(config, pack(jnp.arange(ahead), positions))
    mask = jnp.broadcast_to(jnp.arange(ahead + length) <= positions[0, :, None], (batch, length, ahead + length))
    keep = None if response is None else pack(jnp.zeros(ahead, bool), response.astype(bool))
    return Context(jax.tree.map(lambda leaf: leaf[:, :, None], rotary), mask, None, keep)


def embedded(config: ModelConfig, table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return the input of the first layer ``[B, T, D]`` for a table ``[V, D]``."""
    x = table[tokens]
    return x * jnp.asarray(config.hidden_size**0.5, x.dtype) if config.table.scaled_embedding else x


def final_states(config: ModelConfig, rest: Any, x: jax.Array) -> jax.Array:
    """Return the normed output ``[B, T, D]`` of the last layer.

    Args:
      config: of the model.
      rest: its parameters, of which the layers are not read.
      x: ``[B, T, D]``.
    """
    return rms_norm(config, x, rest["norm"]["scale"])


def final_logits(config: ModelConfig, states: jax.Array, head: jax.Array) -> jax.Array:
    """Return the logits ``[B, T, V]`` of normed states ``[B, T, D]`` and a head ``[V, D]``, float32."""
    scores = jnp.einsum("btd,vd->btv", states, head, preferred_element_type=jnp.float32)
    return soft_cap(scores, config.logit_cap)
