"""RMS norms and soft caps, as every part of a model applies them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nlsr_jax.architecture.config import ModelConfig


def rms_norm(config: ModelConfig, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Return ``x / RMS(x)`` over the last axis, computed in float32, times what the family makes of ``scale``.

    Args:
      config: of the model.
      x: ``[..., D]``.
      scale: ``[D]``.

    Returns:
      ``[..., D]`` in the type of ``x``.
    """
    family = config.table
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + config.eps)
    if family.norm_wide:
        return (wide * (family.norm_offset + scale.astype(jnp.float32))).astype(x.dtype)
    return wide.astype(x.dtype) * scale


def soft_cap(scores: jax.Array, cap: float | None) -> jax.Array:
    """Return ``c tanh(scores / c)``; the scores as they are without a cap."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


class Norm(nn.Module):
    """RMS norm over the last axis; see ``rms_norm``."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = 1.0 - self.config.table.norm_offset
        return rms_norm(self.config, x, self.param("scale", nn.initializers.constant(start), (x.shape[-1],)))
