"""Log-probabilities of the tokens of a text, differentiable, without all logits in memory at once.

Axis legend: B batch, T positions, D embed, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.models.llama import Llama, variables

WHOLE_LOGITS = 2**27
"""Most logits that are made at once; beyond, rows are taken one by one and made again in the backward pass."""


def token_log_probabilities(model: Llama, params, lora, tokens) -> jax.Array:
    """Return how likely the model finds each token after those before it.

    Args:
      model: a Llama.
      params: the base.
      lora: the expanded adapter (``nlsr_jax.models.lora.expand``), or None.
      tokens: ``[B, T]`` int32, padded on the right.

    Returns:
      ``[B, T - 1]`` float32: entry t is log p(tokens[t + 1] | tokens[: t + 1]).
    """
    states: Any = model.apply(variables(params, lora), tokens, output="hidden")
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
