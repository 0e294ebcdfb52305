"""A mixture of experts: every position goes through the few experts that its router chooses.

Positions are laid out by expert, in blocks of equal size that belong to one expert each; a scan multiplies one
block after the other. The rows of an expert's last block that no position fills are the only needless products.

Axis legend: N positions, E experts, C chosen by a position, D embed, F width of an expert, M rows of a block.
Source: MegaBlocks (Gale et al. 2022, arXiv 2211.15841) for blocks of one expert.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nlsr_jax.architecture.config import ModelConfig

_LARGEST_BLOCK = 128


class Places(NamedTuple):
    """Where positions lie in the blocks.

    Attributes:
      of_choice: ``[N, C]`` place of every choice, counted over all blocks.
      position: ``[blocks, M]`` position that lies at a place; N where none does.
      expert: ``[blocks]`` expert of a block.
    """

    of_choice: jax.Array
    position: jax.Array
    expert: jax.Array


def lay_out(chosen: jax.Array, count: int) -> Places:
    """Lay positions out in blocks of one expert each.

    Args:
      chosen: ``[N, C]`` integers, the experts of every position.
      count: E.

    Returns:
      ``Places``; there are as many blocks as any choice of experts can need.
    """
    positions, each = chosen.shape
    choices = positions * each
    size = max(1, min(_LARGEST_BLOCK, choices // count))
    blocks = choices if size == 1 else choices // size + min(count, choices)
    flat = chosen.reshape(-1)
    so_far = jnp.cumsum(flat[:, None] == jnp.arange(count), axis=0, dtype=jnp.int32)
    rank = jnp.take_along_axis(so_far, flat[:, None], axis=1)[:, 0] - 1
    ends = jnp.cumsum(-(-so_far[-1] // size))
    first = (ends - -(-so_far[-1] // size)) * size
    place = first[flat] + rank
    position = jnp.full((blocks * size,), positions, jnp.int32).at[place].set(jnp.arange(choices) // each)
    expert = jnp.minimum(jnp.searchsorted(ends, jnp.arange(blocks), side="right"), count - 1)
    return Places(place.reshape(chosen.shape), position.reshape(blocks, size), expert)


class Experts(nn.Module):
    """Router ``[E, D]`` and experts of one layer: ``gate_proj`` and ``up_proj [E, F, D]``, ``down_proj [E, D, F]``.

    Attributes:
      config: of the model.
      activation: of the experts.
    """

    config: ModelConfig
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        experts, start = self.config.experts, nn.initializers.normal(0.02)
        assert experts is not None
        count, width, d = experts.count, experts.size, x.shape[-1]
        router = self.param("router", start, (count, d))
        gate_proj = self.param("gate_proj", start, (count, width, d))
        up_proj = self.param("up_proj", start, (count, width, d))
        down_proj = self.param("down_proj", start, (count, d, width))
        flat = x.reshape(-1, d)
        weights, chosen = self._route(flat @ router.T)
        places = lay_out(chosen, count)
        rows = jnp.concatenate([flat, jnp.zeros_like(flat[:1])])[places.position]

        def one(_, block):
            rows, expert = block
            inner = self.activation(rows @ gate_proj[expert].T) * (rows @ up_proj[expert].T)
            return None, inner @ down_proj[expert].T

        made = jax.lax.scan(one, None, (rows, places.expert))[1].reshape(-1, d)
        y = jnp.einsum("ncd,nc->nd", made[places.of_choice], weights, preferred_element_type=jnp.float32)
        return y.astype(x.dtype).reshape(x.shape)

    def _route(self, scores):
        """Return weights and numbers ``[N, C]`` of the chosen experts from router scores ``[N, E]``."""
        experts, rule = self.config.experts, self.config.table.experts
        assert experts is not None
        assert rule is not None
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores.astype(jnp.float32), axis=-1), experts.chosen)
        if experts.normalised:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        return weights if rule.wide else weights.astype(scores.dtype), chosen
