"""Log-probabilities of the tokens of a text, differentiable, without all logits in memory at once.

Axis legend: B batch, T positions, D embed, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.models.llama import Llama, variables

WHOLE_LOGITS = 2**27
"""Most logits that are made at once; beyond, rows are taken one by one and made again in the backward pass."""


def token_log_probabilities(model: Llama, params, lora, tokens, probes=None) -> jax.Array:
    """Return how likely the model finds each token after those before it.

    Args:
      model: a Llama.
      params: the base.
      lora: the expanded adapter (``nlsr_jax.models.lora.expand``), or None.
      tokens: ``[B, T]`` int32, padded on the right.
      probes: ``[L, B, T, D]``, added to what attention puts out; None for nothing.

    Returns:
      ``[B, T - 1]`` float32: entry t is log p(tokens[t + 1] | tokens[: t + 1]).
    """
    collections = variables(params, lora)
    if probes is not None:
        collections["probes"] = {"layers": {"attention": probes}}
    states: Any = model.apply(collections, tokens, output="hidden")
    return _log_probabilities(model, params, states, tokens)


def layer_log_probabilities(model: Llama, params, lora, tokens) -> tuple[jax.Array, jax.Array]:
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
        wide = hidden.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + model.config.eps)
        return _log_probabilities(model, params, wide.astype(hidden.dtype) * params["norm"]["scale"], tokens)

    inner = jax.lax.map(jax.checkpoint(from_layer), layers["input"])
    last = _log_probabilities(model, params, states, tokens)
    return jnp.concatenate([inner, last[None]]), layers["feed_forward"]


def _log_probabilities(model: Llama, params, states, tokens) -> jax.Array:
    """Log-probabilities of the tokens from final hidden states ``[B, T, D]``."""
    hidden = states[:, :-1]
    head = params["embed"] if model.config.tied else params["lm_head"]

    def chosen(states, following):
        logits = jnp.einsum("...td,vd->...tv", states, head, preferred_element_type=jnp.float32)
        picked = jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0]
        return picked - jax.nn.logsumexp(logits, axis=-1)

    following = tokens[:, 1:]
    if following.size * head.shape[0] <= WHOLE_LOGITS:
        return chosen(hidden, following)
    return jax.lax.map(jax.checkpoint(lambda row: chosen(*row)), (hidden, following))
