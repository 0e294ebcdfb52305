"""Rotary position embedding of a model's layers.

Axis legend: B batch, T positions, H head dim.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.architecture.rope import Rope, inverse_frequencies


class Rotary(NamedTuple):
    """Cosines and sines of the angles of positions, ``[..., H/2]`` float32.

    Attributes:
      cos, sin: of all layers, or of those without a window.
      local_cos, local_sin: of the windowed layers, where they have a rotary embedding of their own.
    """

    cos: jax.Array
    sin: jax.Array
    local_cos: jax.Array | None = None
    local_sin: jax.Array | None = None

    def of_layer(self, windowed: jax.Array) -> "Rotary":
        """Return the rotary embedding of a layer, which has a window or has none."""
        if self.local_cos is None or self.local_sin is None:
            return self
        return Rotary(jnp.where(windowed, self.local_cos, self.cos), jnp.where(windowed, self.local_sin, self.sin))


def rotary_embedding(config: ModelConfig, positions: jax.Array, far: bool | None = None) -> Rotary:
    """Return the rotary embedding of positions.

    Args:
      config: of the model.
      positions: ``[...]`` integers.
      far: whether a text goes beyond the original length of a ``longrope`` embedding; None to decide by the
        greatest of ``positions``, for all of them, as transformers does.

    Returns:
      ``Rotary`` with leaves ``[..., H/2]``, of a part of the head where only that is turned.
    """
    cos, sin = _cos_sin(config.rope, config.head_dim, positions, far)
    if config.local_rope is None:
        return Rotary(cos, sin)
    return Rotary(cos, sin, *_cos_sin(config.local_rope, config.head_dim, positions, far))


def _cos_sin(rope: Rope, head_dim: int, positions, far: bool | None):
    frequencies: Any = inverse_frequencies(rope, head_dim, bool(far))
    if rope.kind == "longrope" and far is None:
        beyond = jnp.max(positions) >= rope.original_length
        frequencies = jnp.where(beyond, inverse_frequencies(rope, head_dim, True), frequencies)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    if rope.amplitude == 1:
        return jnp.cos(angles), jnp.sin(angles)
    return jnp.cos(angles) * rope.amplitude, jnp.sin(angles) * rope.amplitude


def rotate(x: jax.Array, rotary: Rotary) -> jax.Array:
    """Turn heads: the two halves of what is turned of a head are one complex number.

    Args:
      x: ``[B, T, heads, H]``.
      rotary: of the layer, leaves ``[B, T, 1, H/2]``, or fewer than H/2 to turn a part of the head.
    """
    width = 2 * rotary.cos.shape[-1]
    turned, rest = (x, None) if width == x.shape[-1] else (x[..., :width], x[..., width:])
    first, second = jnp.split(turned.astype(jnp.float32), 2, axis=-1)
    parts = [first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin]
    turned = jnp.concatenate(parts, axis=-1).astype(x.dtype)
    return turned if rest is None else jnp.concatenate([turned, rest], axis=-1)
