"""The loss on responses and its gradient at an adapter, over the calibration data.

Axis legend: B batch, T positions, L layers, r rank, k in-features, d out-features, N adapters.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, check_same_structure
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.calibration.measures import measured
from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.calibration.streamed_passes import stream_factor_gradient
from nlsr_jax.calibration.summing import add, check_response, divided, mean_of, nothing, wide
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama, hidden_states
from nlsr_jax.models.lora import expand, prepare
from nlsr_jax.models.shared_prefix import Rows, cut_prefix
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.models.token_log_probabilities import log_probabilities
from nlsr_jax.types import Gradients, Params


class LossSums(NamedTuple):
    """Sums over examples.

    Attributes:
      gradients: of the gradients, a tree of an adapter's factors.
      losses: of the losses, a float32 scalar; None of a streamed base.
      examples: their number, a float32 scalar.
    """

    gradients: Gradients
    losses: jax.Array | None
    examples: jax.Array

    def gradient(self) -> Gradients:
        """Return the mean gradient."""
        return divided(self.gradients, self.examples)

    def loss(self) -> float | None:
        """Return the mean loss in nats a token; None of a streamed base."""
        return None if self.losses is None else float(divided(self.losses, self.examples))


def collect_loss(model: Llama, params: Params, adapter: Adapter | None, batches: Iterable) -> jax.Array:
    """Average the negative log-likelihood of responses over examples.

    Args:
      model, params: from ``load_model``.
      adapter: the adapter to run with; None for the base alone.
      batches: of ``(tokens, response_mask)``, each ``[B, T]``, padded on the right.

    Returns:
      float32 scalar in nats a token: the mean over examples of the mean over an example's response tokens. Rows
      without a response do not count.

    Raises:
      InputError: an adapter or a batch that does not fit.
    """
    lora = prepare(model, adapter)

    def checked():
        for tokens, mask in batches:
            check_response(model, tokens, mask)
            yield Rows(tokens, None, mask)

    return mean_of(measured(sum_losses, model, params, [lora], None, checked()), jnp.float32(0))


def sum_losses(model: Llama, params: Params, states: Sequence[jax.Array], given: Any, batch: Rows) -> tuple:
    """Return the sum of the losses of a batch's rows, and how many rows count; see ``Finish``.

    A row's loss is the mean negative log-likelihood of its response tokens.
    """
    (hidden,) = states
    keep = batch.response[:, 1:].astype(bool)
    values = log_probabilities(model, params, hidden, batch.tokens)
    means = -jnp.sum(jnp.where(keep, values, 0.0), axis=1) / jnp.maximum(jnp.sum(keep, axis=1), 1)
    return jnp.sum(means), jnp.sum(jnp.any(keep, axis=1), dtype=jnp.float32)


def collect_loss_gradient(model: Llama, params: Params, adapter: Adapter, batches: Iterable) -> Gradients:
    """Average ∂L/∂W over examples, with its sign, for the scores of ``gain``.

    Args:
      model, params: from ``load_model``.
      adapter: W, the fine-tuned adapter; factors ``a [L, r, k]`` and ``b [L, d, r]``.
      batches: of ``(tokens, response_mask)``, each ``[B, T]``, padded on the right.

    Returns:
      Tree of the adapter's factors, float32: the mean over examples of the gradient of the mean negative
      log-likelihood of an example's response tokens. Rows without a response do not count.

    Raises:
      InputError: an adapter or a batch that does not fit.
    """
    return sum_loss_gradients(model, params, adapter, batches).gradient()


def sum_loss_gradients(
    model: Llama, params: Params, adapter: Adapter, batches: Iterable, so_far: LossSums | None = None
) -> LossSums:
    """Sum ∂L/∂W and L over examples; see ``collect_loss_gradient``, which divides by their number.

    Args:
      model, params, adapter, batches: see ``collect_loss_gradient``.
      so_far: the result for other examples, to which these are added; None for none.

    Returns:
      The sums, of those examples too.

    Raises:
      InputError: an adapter or a batch that does not fit.
    """
    check_adapter_fits(adapter, model.config, "adapter")
    adapter, rows = wide(adapter), answered_rows(model, batches)
    if isinstance(params, StreamedParams):
        gradients, count = stream_factor_gradient(sum_losses, model, params, adapter, rows)
        return add(so_far or _no_sums(adapter, losses=False), LossSums(gradients, None, count))
    parts = over_batches(_measure_loss_gradient, model, params, adapter, rows)
    return functools.reduce(add, parts, so_far or _no_sums(adapter))


def sum_each_gradient(
    model: Llama,
    params: Params,
    adapters: Sequence[Adapter],
    batches: Iterable,
    so_far: Sequence[LossSums | None] | None = None,
) -> list[LossSums]:
    """Return ``sum_loss_gradients`` of several adapters, by one pass that reads the base's weights once for all.

    The intermediate results are in memory N times. The sums are those of single passes up to rounding.

    Args:
      model, params: from ``load_model``; in memory.
      adapters: N adapters of one structure.
      batches: see ``collect_loss_gradient``.
      so_far: see ``sum_loss_gradients``, one for each adapter.

    Returns:
      The result of ``sum_loss_gradients`` for each adapter.

    Raises:
      InputError: adapters that do not fit the model or one another, or a batch that does not fit.
    """
    for number, adapter in enumerate(adapters):
        check_adapter_fits(adapter, model.config, f"adapter {number}")
        check_same_structure(adapters[0], adapter, ("adapter 0", f"adapter {number}"))
    same = [wide(adapter) for adapter in adapters]
    before = [known or _no_sums(same[0]) for known in so_far or [None] * len(same)]
    stacked = dataclasses.replace(same[0], factors=_stack([dict(one.factors) for one in same]))
    parts = over_batches(_measure_each_gradient, model, params, stacked, answered_rows(model, batches))
    total = functools.reduce(add, parts, _stack(before))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], total) for i in range(len(same))]


def _no_sums(adapter: Adapter, *, losses: bool = True) -> Any:
    """Return the sums over no examples, in host memory."""
    gradients, count = nothing(adapter.factors)
    return LossSums(gradients, np.zeros_like(count) if losses else None, count)  # type: ignore[arg-type]


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _measure_each_gradient(model, params, adapters: Adapter, batch: Rows):
    """Do as ``_measure_loss_gradient`` for adapters whose leaves have a leading axis N."""
    return jax.vmap(lambda one: _measure_loss_gradient(model, params, one, batch))(adapters)


def answered_rows(model: Llama, batches: Iterable) -> Iterator[Rows]:
    """Yield the rows of batches for a gradient of the loss, with what they begin with alike cut off.

    Args:
      model: that will run over them.
      batches: of ``(tokens, response_mask)``, each ``[B, T]``, padded on the right.

    Raises:
      InputError: a batch that does not fit.
    """
    for batch in batches:
        if len(batch) != 2:
            raise InputError(f"the gradient of the loss takes batches of 2 arrays, found {len(batch)}")
        check_response(model, *batch)
        yield cut_prefix(model, *batch)


def _measure_loss_gradient(model, params, adapter: Adapter, batch: Rows):
    """Sum of the rows' losses with its gradient, and how many rows count."""

    def loss(factors):
        lora = expand(dataclasses.replace(adapter, factors=factors), model.config.num_layers)
        states = hidden_states(model, params, lora, batch.tokens, batch.prefix)
        return sum_losses(model, params, [states], None, batch)

    (losses, count), gradients = jax.value_and_grad(loss, has_aux=True)(adapter.factors)
    return LossSums(gradients, losses, count)
