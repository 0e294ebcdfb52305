"""A mixture of experts: every position goes through the few experts that its router chooses.

Positions are laid out by expert, in blocks of equal size that belong to one expert each; a scan multiplies one
block after the other. The rows of an expert's last block that no position fills are the only needless products.

Axis legend: N positions, E experts, C chosen by a position, D embed, F width of an expert, M rows of a block.
Source: MegaBlocks (Gale et al. 2022, arXiv 2211.15841) for blocks of one expert.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nlsr_jax.architecture.config import EXPERT_PROJECTIONS, ModelConfig
from nlsr_jax.models.product import linear
from nlsr_jax.models.projection import thin
from nlsr_jax.modules import FUSED

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


class Captured(NamedTuple):
    """What went into the projections of the experts.

    Attributes:
      places: where positions lie.
      rows: ``[blocks, M, D]`` inputs of ``gate_proj`` and ``up_proj``.
      inner: ``[blocks, M, F]`` inputs of ``down_proj``.
    """

    places: Places
    rows: jax.Array
    inner: jax.Array

    def of_expert(self, name: str, expert: int, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the inputs ``[rows, k]`` of a projection, and which rows are of this expert and of kept positions.

        Args:
          name: one of ``EXPERT_PROJECTIONS``, or ``gate_up_proj``.
          expert: its number.
          keep: bool, one for each position.
        """
        kept = jnp.concatenate([keep.reshape(-1), jnp.zeros(1, bool)])[self.places.position]
        rows = self.inner if name == "down_proj" else self.rows
        return rows.reshape(-1, rows.shape[-1]), (kept & (self.places.expert == expert)[:, None]).reshape(-1)


def stack_factors(found: Mapping[str, Any], config: ModelConfig) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Stack the factors of single experts, zero where an expert has none.

    Args:
      found: ``{module: {"a": [r, k], "b": [d, r]}}``, the modules named by their paths.
      config: of the model.

    Returns:
      ``{own name: (a [E, r, k], b [E, d, r])}`` of the projections that any expert has factors of.
    """
    stacked, every_part = {}, _parts(found, config)
    assert config.experts is not None
    for own in EXPERT_PROJECTIONS:
        parts = {expert: leaf for (name, expert), leaf in every_part.items() if name == own}
        if not parts:
            continue
        rank, like = max(leaf["a"].shape[0] for leaf in parts.values()), next(iter(parts.values()))
        none = {"a": like["a"][:0], "b": like["b"][:, :0]}
        every = [parts.get(i, none) for i in range(config.experts.count)]
        a = [jnp.pad(leaf["a"], ((0, rank - leaf["a"].shape[0]), (0, 0))) for leaf in every]
        b = [jnp.pad(leaf["b"], ((0, 0), (0, rank - leaf["b"].shape[1]))) for leaf in every]
        stacked[own] = jnp.stack(a), jnp.stack(b)
    return stacked


def _parts(found: Mapping[str, Any], config: ModelConfig) -> dict[tuple[str, int], Any]:
    """Return the factors by own name and expert; those of gate above up are cut into two with one A."""
    modules, parts = config.expert_modules() | config.expert_slices(), {}
    for name, leaf in found.items():
        own, expert = modules[name][0]
        names = FUSED.get(own, (own,))
        for one, b in zip(names, jnp.split(leaf["b"], len(names), axis=-2), strict=True):
            parts[one, expert] = {**leaf, "b": b}
    return parts


class Experts(nn.Module):
    """Router ``[E, D]`` and experts of one layer: ``gate_proj`` and ``up_proj [E, F, D]``, ``down_proj [E, D, F]``.

    Attributes:
      config: of the model.
      activation: of the experts.
    """

    config: ModelConfig
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(
        self, x: jax.Array, factors: Mapping[str, tuple[jax.Array, jax.Array]]
    ) -> tuple[jax.Array, Captured]:
        """Return what the chosen experts make of ``x [B, T, D]``, and what went into their projections.

        Args:
          x: positions.
          factors: from ``stack_factors``.
        """
        experts, start = self.config.experts, nn.initializers.normal(0.02)
        assert experts is not None
        count, width, d = experts.count, experts.size, x.shape[-1]
        router = self.param("router", start, (count, d))
        shapes = ((count, width, d), (count, width, d), (count, d, width))
        kernels = {
            name: self.param(name, start, shape) for name, shape in zip(EXPERT_PROJECTIONS, shapes, strict=True)
        }
        flat = x.reshape(-1, d)
        weights, chosen = self._route(linear(flat, router))
        places = lay_out(chosen, count)
        rows = jnp.concatenate([flat, jnp.zeros_like(flat[:1])])[places.position]

        def product(name, rows, expert, adapters):
            y = linear(rows, kernels[name][expert])
            if name not in adapters:
                return y
            a, b = adapters[name]
            return y + (thin(rows, a) @ b.T).astype(y.dtype)

        def one(_, block):
            rows, expert, adapters = block
            gate, up = (product(name, rows, expert, adapters) for name in ("gate_proj", "up_proj"))
            inner = self.activation(gate) * up
            return None, (inner, product("down_proj", inner, expert, adapters))

        adapters = {name: tuple(leaf[places.expert] for leaf in pair) for name, pair in factors.items()}
        _, (inner, made) = jax.lax.scan(one, None, (rows, places.expert, adapters))
        chosen_rows = made.reshape(-1, d)[places.of_choice]
        y = jnp.einsum("ncd,nc->nd", chosen_rows, weights, preferred_element_type=jnp.float32)
        return y.astype(x.dtype).reshape(x.shape), Captured(places, rows, inner)

    def _route(self, scores):
        """Return weights and numbers ``[N, C]`` of the chosen experts from router scores ``[N, E]``."""
        experts, rule = self.config.experts, self.config.table.experts
        assert experts is not None
        assert rule is not None
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores.astype(jnp.float32), axis=-1), experts.chosen)
        if experts.normalised:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        return weights if rule.wide else weights.astype(scores.dtype), chosen
