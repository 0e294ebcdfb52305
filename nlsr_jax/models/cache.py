"""Keys and values of the positions that generation has behind it.

Axis legend: L layers, B batch, T new positions, S slots, K kv heads, H head dim.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """Keys ``k [L, B, K, H, S]`` and values ``v [L, B, K, S, H]`` of all positions so far, and the next free slot.

    So the products of a step of generation read both in the order in which they lie. Layers that come one by one
    have a tuple of theirs; see ``LayerCache``.
    """

    k: Any
    v: Any
    slot: jax.Array

    def seen(self, layer: Any) -> tuple[jax.Array, jax.Array]:
        """Return a layer's keys and values so far, ``[B, K, S, H]``."""
        return (
            jnp.swapaxes(jax.lax.dynamic_index_in_dim(self.k, layer, keepdims=False), -1, -2),
            jax.lax.dynamic_index_in_dim(self.v, layer, keepdims=False),
        )

    def extended(self, layer: Any, k: jax.Array, v: jax.Array) -> "Cache":
        """Put ``k`` and ``v [B, K, T, H]`` of new positions of a layer into the next free slots."""
        k = jnp.swapaxes(k, -1, -2)
        return self._replace(
            k=jax.lax.dynamic_update_slice(self.k, k[None], (layer, 0, 0, 0, self.slot)),
            v=jax.lax.dynamic_update_slice(self.v, v[None], (layer, 0, 0, self.slot, 0)),
        )


class LayerCache(NamedTuple):
    """``Cache`` of one layer: ``k [B, K, H, S]``, ``v [B, K, S, H]``.

    An axis of layers of length 1 would not do: XLA then writes an update twice, and copies what it writes to.
    """

    k: jax.Array
    v: jax.Array
    slot: jax.Array

    def seen(self, layer: Any) -> tuple[jax.Array, jax.Array]:
        """Return the keys and values so far, ``[B, K, S, H]``."""
        return jnp.swapaxes(self.k, -1, -2), self.v

    def extended(self, layer: Any, k: jax.Array, v: jax.Array) -> "LayerCache":
        """Put ``k`` and ``v [B, K, T, H]`` of new positions into the next free slots."""
        return self._replace(
            k=jax.lax.dynamic_update_slice(self.k, jnp.swapaxes(k, -1, -2), (0, 0, 0, self.slot)),
            v=jax.lax.dynamic_update_slice(self.v, v, (0, 0, self.slot, 0)),
        )
