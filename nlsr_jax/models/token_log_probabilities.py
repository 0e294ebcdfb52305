"""Log-probabilities of the tokens of a text, differentiable, without many logits in memory at once.

Axis legend: B batch, T positions, D embed, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.models.llama import Llama, variables
from nlsr_jax.models.norm import rms_norm, soft_cap
from nlsr_jax.types import Params

WHOLE_LOGITS = 2**21
"""Most logits that are kept for the derivative; where there are more, they are made in parts and none is kept."""
POSITIONS = 512
"""About how many positions make a part."""


def token_log_probabilities(
    model: Llama,
    params: Params,
    lora: Any,
    tokens: jax.Array,
    probes: jax.Array | None = None,
    prefix: jax.Array | None = None,
) -> jax.Array:
    """Return how likely the model finds each token after those before it.

    Args:
      model: a Llama.
      params: the base.
      lora: the expanded adapter (``nlsr_jax.models.lora.expand``), or None.
      tokens: ``[B, T]`` int32, padded on the right.
      probes: ``[L, B, T, D]``, added to what attention puts out; None for nothing.
      prefix: ``[P]`` int32 before every row, without probes; None for none. See ``nlsr_jax.models.shared_prefix``.

    Returns:
      ``[B, T - 1]`` float32: entry t is log p(tokens[t + 1] | tokens[: t + 1]).
    """
    collections = variables(params, lora)
    if probes is not None:
        collections["probes"] = {"layers": {"attention": probes}}
    states: Any = model.apply(collections, tokens, prefix=prefix, output="hidden")
    return log_probabilities(model, params, states, tokens)


def layer_log_probabilities(
    model: Llama, params: Params, lora: Any, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return how likely each layer's output makes the tokens, and what the feed-forward parts put out.

    Args:
      model, params, lora, tokens: as for ``token_log_probabilities``.

    Returns:
      ``([L + 1, B, T - 1] float32, [L, B, T, D])``: the first from the embedding and from every layer's output,
      each through the last norm and the head; its last entry is ``token_log_probabilities``.
    """
    collections = variables(params, lora)
    states, found = model.apply(collections, tokens, output="hidden", mutable=["representations"])
    layers = found["representations"]["layers"]

    def from_layer(hidden):
        return log_probabilities(model, params, rms_norm(model.config, hidden, params["norm"]["scale"]), tokens)

    inner = jax.lax.map(jax.checkpoint(from_layer), layers["input"])
    last = log_probabilities(model, params, states, tokens)
    return jnp.concatenate([inner, last[None]]), layers["feed_forward"]


def likely_among(
    model: Llama,
    params: Params,
    states: jax.Array,
    places: jax.Array,
    among: jax.Array,
    *,
    temperature: float,
) -> jax.Array:
    """Return how likely the model goes on with one of several tokens.

    Args:
      model, params: as for ``token_log_probabilities``; the layers are not read.
      states: ``[B, T, D]`` final hidden states.
      places: ``[B, K]`` int32: after which tokens.
      among: ``[B, K, V]`` bool: with which.
      temperature: that the logits are divided by.

    Returns:
      ``[B, K]`` float32: the logarithm of their summed probabilities, −inf where there are none.
    """
    states = jnp.take_along_axis(states, places[..., None], axis=1)
    logits, _ = _logits(states, head_of(model, params), model.config.logit_cap)
    logits = logits / temperature
    chosen = jax.nn.logsumexp(jnp.where(among, logits, -jnp.inf), axis=-1)
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def likeliest(model: Llama, params: Params, states: jax.Array, places: jax.Array) -> jax.Array:
    """Return the most likely next token of each row.

    Args:
      model, params: as for ``token_log_probabilities``; the layers are not read.
      states: ``[B, T, D]`` final hidden states.
      places: ``[B]`` int32: index of each row's last token.

    Returns:
      ``[B]`` int32.
    """
    states = jnp.take_along_axis(states, places[:, None, None], axis=1)
    logits, _ = _logits(states, head_of(model, params), model.config.logit_cap)
    return jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)


def token_divergences(model: Llama, params: Params, before: jax.Array, after: jax.Array) -> jax.Array:
    """Return how far the next token's distribution with one adapter is from that with another.

    Args:
      model, params: as for ``token_log_probabilities``; the layers are not read.
      before, after: ``[B, T, D]`` final hidden states with the one and the other.

    Returns:
      ``[B, T]`` float32 in nats: the Kullback-Leibler divergence Σ p log(p / q) behind every token, p with
      ``before`` and q with ``after``.
    """
    head, cap = head_of(model, params), model.config.logit_cap

    def part(one, other):
        (p, p_total), (q, q_total) = _logits(one, head, cap), _logits(other, head, cap)
        p, q = p - p_total[..., None], q - q_total[..., None]
        return jnp.sum(jnp.exp(p) * (p - q), axis=-1)

    return _map_parts(part, before, after)


def log_probabilities(model: Llama, params: Params, states: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return ``token_log_probabilities`` of final hidden states ``[B, T, D]``; the layers are not read."""
    hidden, following, head = states[:, :-1], tokens[:, 1:], head_of(model, params)
    cap = model.config.logit_cap
    if following.size * head.shape[0] <= WHOLE_LOGITS:
        return _chosen(*_logits(hidden, head, cap), following)
    return _chosen_in_parts(hidden, head, following, cap)


def head_of(model: Llama, params: Params) -> jax.Array:
    """Return the output head ``[V, D]``, of a tied model its embedding."""
    return params["embed"] if model.config.tied else params["lm_head"]


def _logits(states, head, cap: float | None) -> tuple[jax.Array, jax.Array]:
    """Logits and the logarithm of their summed exponentials."""
    logits = soft_cap(jnp.einsum("btd,vd->btv", states, head, preferred_element_type=jnp.float32), cap)
    return logits, jax.nn.logsumexp(logits, axis=-1)


def _chosen(logits, total, following):
    return jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0] - total


def _parts(*arrays):
    """Cut ``[B, T, …]`` into parts of T, ``[parts, B, …]``, zeros behind; a mesh may hold some of the rows."""
    batch, length = arrays[0].shape[:2]
    count = -(-length // max(1, POSITIONS // batch))
    width = -(-length // count)

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, count * width - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, count, width, *x.shape[2:]), 1, 0)

    return tuple(map(split, arrays))


def _map_parts(function, *arrays):
    """Map a function over parts of ``[B, T, …]`` and put what it returns together again."""
    length = arrays[0].shape[1]

    def joined(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]

    return jax.tree.map(joined, jax.lax.map(lambda part: function(*part), _parts(*arrays)))


def _sum_parts(function, *arrays):
    """Sum what a function returns for parts of ``[B, T, …]``."""
    parts = _parts(*arrays)
    shape = jax.eval_shape(function, *(x[0] for x in parts))
    zeros = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.scan(lambda total, part: (total + function(*part), None), zeros, parts)[0]


def _slope(logits, cap: float | None):
    """Return the derivative of capped logits by the logits before the cap."""
    return 1 - jnp.square(logits / cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _chosen_in_parts(states, head, following, cap):
    """Log-probabilities ``[B, T]`` of ``following`` from ``states [B, T, D]`` and ``head W [V, D]``.

    Their derivative by the states, ``W[y] − p W``, is made where the logits are: those of a part are gone when the
    next is made. That by W makes them again; it costs nothing where nobody asks for it. A soft cap multiplies both
    terms by its slope.
    """
    return _map_parts(lambda h, y: _chosen(*_logits(h, head, cap), y), states, following)


def _chosen_forward(states, head, following, cap):
    def part(h, y):
        logits, total = _logits(h, head, cap)
        likely, wanted = jnp.exp(logits - total[..., None]), head[y]
        if cap is not None:
            slope = _slope(logits, cap)
            likely = likely * slope
            wanted = wanted * jnp.take_along_axis(slope, y[..., None], axis=-1).astype(head.dtype)
        mean = jnp.einsum("btv,vd->btd", likely.astype(head.dtype), head, preferred_element_type=jnp.float32)
        return _chosen(logits, total, y), wanted - mean

    values, direction = _map_parts(part, states, following)
    return values, (states, head, following, direction)


def _chosen_backward(cap, saved, gradient):
    states, head, following, direction = saved

    def part(h, y, g):
        logits, total = _logits(h, head, cap)
        d_logits = g[..., None] * ((jnp.arange(head.shape[0]) == y[..., None]) - jnp.exp(logits - total[..., None]))
        d_logits = d_logits if cap is None else d_logits * _slope(logits, cap)
        return jnp.einsum("btv,btd->vd", d_logits.astype(h.dtype), h, preferred_element_type=jnp.float32)

    d_head = _sum_parts(part, states, following, gradient)
    return (gradient[..., None] * direction).astype(states.dtype), d_head.astype(head.dtype), None


_chosen_in_parts.defvjp(_chosen_forward, _chosen_backward)
