"""What every layer makes of a prompt.

Axis legend: L layers, B batch, T positions, D embed.
"""

import functools

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.models.llama import Llama, variables
from nlsr_jax.models.lora import check_tokens, prepare
from nlsr_jax.types import Array, Params


def last_hidden_states(
    model: Llama, params: Params, tokens: Array, lengths: Array, *, adapter: Adapter | None = None
) -> jax.Array:
    """Return the hidden states at the last token of every row.

    Args:
      model, params: from ``load_model``.
      tokens: ``[B, T]`` integers, padded on the right.
      lengths: ``[B]`` integers, how many tokens of each row count.
      adapter: LoRA adapter to run with; None for the base alone.

    Returns:
      ``[L + 1, B, D]`` float32: what goes into the first layer, into every other one, and what leaves the last one,
      that after the last norm.

    Raises:
      InputError: tokens or an adapter that do not fit the model.
    """
    check_tokens(model, tokens)
    return _last_hidden_states(model, params, prepare(model, adapter), tokens, jnp.asarray(lengths))


@functools.partial(jax.jit, static_argnames="model")
def _last_hidden_states(model, params, lora, tokens, lengths):
    states, found = model.apply(variables(params, lora), tokens, output="hidden", mutable=["representations"])
    every = jnp.concatenate([found["representations"]["layers"]["input"], states[None]])
    rows = jnp.arange(tokens.shape[0])
    return every[:, rows, lengths - 1].astype(jnp.float32)
