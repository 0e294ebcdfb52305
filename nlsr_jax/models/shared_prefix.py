"""Rows that begin alike, as behind the system prompt of a chat template: the common beginning is computed once.

The prefix and the rows lie one after the other in one packed row, so that all layers but attention treat them
alike; rows attend to the prefix and to themselves. What is made of them is that of whole rows up to rounding, and
so are derivatives.

Axis legend: B batch, T positions of a row, P of the prefix, N = P + B T, S = P + T keys, K kv heads, G query
heads per kv head, H head dim, D embed.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.models.attention import Scaling, attend

WORTH = 16
"""Tokens of a common beginning from which on it is computed once."""
_STEP = 8


class Attending(Protocol):
    """What decides whether rows can share a prefix: a model's configuration and its kind of attention."""

    @property
    def config(self) -> ModelConfig:
        """The configuration."""
        ...

    @property
    def attention(self) -> str:
        """The kind of attention; see ``Llama``."""
        ...


class Rows(NamedTuple):
    """Rows that go through the layers together, or one by one with a leading axis N.

    Attributes:
      tokens: ``[B, T]`` or ``[N, 1, T]``.
      attention: False at padding; None for no padding.
      response: the positions that count; None for all.
      prefix: ``[P]`` before every row; None for none.
    """

    tokens: Any
    attention: Any = None
    response: Any = None
    prefix: Any = None

    @property
    def one_by_one(self) -> bool:
        """Whether there is an axis N."""
        return self.tokens.ndim == 3

    @property
    def positions(self) -> int:
        """How many positions go through the layers."""
        return self.tokens.size + (0 if self.prefix is None else len(self.prefix))


def can_share(model: Attending) -> bool:
    """Whether the layers can take packed rows: windows count slots, and fused kernels take whole rows."""
    c = model.config
    return c.window is None and c.rope.kind != "longrope" and model.attention == "plain"


def cut_prefix(model: Attending, tokens: Any, response: Any) -> Rows:
    """Cut what all rows with a response begin with.

    Args:
      model: that will run over them.
      tokens: ``[B, T]``, padded on the right.
      response: ``[B, T]`` bool.

    Returns:
      ``Rows``: the prefix, of ``common_length`` tokens, ends before the last token ahead of any response. It is
      None where that is 0.
    """
    host = np.asarray(tokens), np.asarray(response, bool)
    counted = host[1].any(axis=1)
    if not counted.any() or not can_share(model):
        return Rows(tokens, None, response)
    rows, first = host[0][counted], int(host[1][counted].argmax(axis=1).min())
    length = common_length(rows[:, : max(first - 1, 0)])
    if not length:
        return Rows(tokens, None, response)
    return Rows(host[0][:, length:], None, host[1][:, length:], rows[0, :length])


def common_length(rows: np.ndarray) -> int:
    """Return how many tokens to compute once for rows that begin alike.

    Args:
      rows: ``[B, T]`` integers.

    Returns:
      A multiple of eight, at most T; 0 where fewer than ``WORTH`` are equal in all rows.

    >>> common_length(np.arange(20) < np.array([[18], [20]]))
    16
    """
    differs = np.append((rows != rows[0]).any(axis=0), True)
    length = int(differs.argmax()) // _STEP * _STEP
    return length if length >= WORTH else 0


def pack(prefix: jax.Array | None, rows: jax.Array) -> jax.Array:
    """Return ``[1, N, ...]`` of a prefix ``[P, ...]`` and rows ``[B, T, ...]``; without a prefix the rows."""
    if prefix is None:
        return rows
    return jnp.concatenate([prefix.astype(rows.dtype), rows.reshape(-1, *rows.shape[2:])])[None]


def unpack(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the rows ``[B, T, D]`` of ``pack``; ``x`` where it is not packed."""
    if x.shape[:2] == shape:
        return x
    return x[0, -shape[0] * shape[1] :].reshape(*shape, -1)


def is_packed(x: jax.Array, mask: jax.Array) -> bool:
    """Whether ``x`` is packed, by the mask ``[B, T, S]`` of its rows."""
    return x.shape[:2] != mask.shape[:2]


def attend_packed(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: Scaling) -> jax.Array:
    """Return attention within the prefix, and of every row to the prefix and itself; see ``attend``.

    Args:
      q: ``[1, N, K, G, H]``.
      k, v: ``[1, K, N, H]``.
      mask: ``[B, T, S]`` bool.
      scaling: of the scores.

    Returns:
      ``[1, N, K, G, H]``.
    """
    batch, length, slots = mask.shape
    ahead = slots - length
    causal = jnp.tril(jnp.ones((1, ahead, ahead), bool))
    first = attend(q[:, :ahead], k[:, :, :ahead], v[:, :, :ahead], causal, scaling)

    def seen(x):
        shared = jnp.broadcast_to(x[:, :, :ahead], (batch, x.shape[1], ahead, x.shape[3]))
        own = x[0, :, ahead:].reshape(x.shape[1], batch, length, -1)
        return jnp.concatenate([shared, jnp.swapaxes(own, 0, 1)], axis=2)

    rows = attend(q[0, ahead:].reshape(batch, length, *q.shape[2:]), seen(k), seen(v), mask, scaling)
    return jnp.concatenate([first, rows.reshape(1, -1, *rows.shape[2:])], axis=1)
