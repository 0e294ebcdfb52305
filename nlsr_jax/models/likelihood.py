"""How likely a model finds given tokens.

Axis legend: B batch, T positions, D embed, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama, variables
from nlsr_jax.models.lora import check_array, check_tokens, prepare
from nlsr_jax.models.norm import soft_cap
from nlsr_jax.types import Array, Params


class ContinuationScores(NamedTuple):
    """What a model makes of given continuations.

    Attributes:
      log_likelihood: ``[B]`` float32, natural logarithm of the probability of the tokens that count.
      greedy: ``[B]`` bool, whether greedy decoding chooses each of them.
    """

    log_likelihood: jax.Array
    greedy: jax.Array


def log_likelihood(
    model: Llama,
    params: Params,
    tokens: Array,
    targets: Array,
    keep: Array,
    *,
    adapter: Adapter | None = None,
    attention_mask: Array | None = None,
) -> jax.Array:
    """Return the log-probability of target tokens, summed over the positions that count.

    Args:
      model, params: from ``load_model``.
      tokens: ``[B, T]`` integers that the model reads.
      targets: ``[B, T]`` integers, the token that should follow each position.
      keep: ``[B, T]`` bool, the positions that count.
      adapter: LoRA adapter to run with; None for the base alone.
      attention_mask: ``[B, T]``, False or 0 at padding; None for no padding.

    Returns:
      ``[B]`` float32 natural logarithms.

    Raises:
      InputError: inputs that do not fit the model or one another.
    """
    _check(model, tokens, targets, keep, attention_mask)
    return _log_likelihood(model, params, prepare(model, adapter), tokens, attention_mask, targets, keep)


def score_continuations(
    model: Llama,
    params: Params,
    tokens: Array,
    targets: Array,
    keep: Array,
    *,
    adapter: Adapter | None = None,
    attention_mask: Array | None = None,
) -> ContinuationScores:
    """Return the log-probability of target tokens, and whether greedy decoding chooses them.

    Args:
      model, params, tokens, targets, keep, adapter, attention_mask: as for ``log_likelihood``.

    Raises:
      InputError: inputs that do not fit the model or one another.
    """
    _check(model, tokens, targets, keep, attention_mask)
    lora = prepare(model, adapter)
    return ContinuationScores(*_score(model, params, lora, tokens, attention_mask, targets, keep))


def _check(model, tokens, targets, keep, attention_mask) -> None:
    check_tokens(model, tokens, attention_mask)
    check_tokens(model, targets)
    check_array(keep, "keep")
    if targets.shape != tokens.shape or keep.shape != tokens.shape:
        shapes = f"{list(targets.shape)} and {list(keep.shape)}"
        raise InputError(f"targets and keep are {shapes}; expected {list(tokens.shape)} as tokens")


@functools.partial(jax.jit, static_argnames="model")
def _score(model, params, lora, tokens, attention_mask, targets, keep):
    hidden = model.apply(variables(params, lora), tokens, attention_mask, output="hidden")
    head, cap = params["embed"] if model.config.tied else params["lm_head"], model.config.logit_cap

    def one(row):
        """One row at a time: ``[T, V]`` logits fit where ``[B, T, V]`` would not."""
        states, wanted, counts = row
        logits = soft_cap(jnp.einsum("td,vd->tv", states, head, preferred_element_type=jnp.float32), cap)
        chosen = jnp.take_along_axis(logits, wanted[:, None], axis=-1)[:, 0]
        total = jnp.sum(jnp.where(counts, chosen - jax.nn.logsumexp(logits, axis=-1), 0))
        return total, jnp.all(jnp.where(counts, jnp.argmax(logits, axis=-1) == wanted, True))

    return jax.lax.map(one, (hidden, targets, keep.astype(bool)))


@functools.partial(jax.jit, static_argnums=0)
def _log_likelihood(*arguments):
    return _score(*arguments)[0]
