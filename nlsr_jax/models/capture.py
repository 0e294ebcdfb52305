"""One pass over the calibration data: statistics of the module inputs, or gradients of the factors.

Axis legend: B batch, T positions, L layers, r rank, k in-features, d out-features.
"""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama, variables
from nlsr_jax.models.lora import check_adapter_fits, check_array, check_tokens, expand, prepare
from nlsr_jax.models.token_log_probabilities import token_log_probabilities
from nlsr_jax.nlsr.statistics import Statistics, add_batch, init_statistics

OBJECTIVES = ("snip", "preference_snip")


def collect_statistics(model: Llama, params, reference: Adapter, batches: Iterable) -> Statistics:
    """Run base and reference adapter once over the data and sum up what identification needs.

    Args:
      model, params: from ``load_model``.
      reference: W_e, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      batches: of ``(tokens [B, T], response_mask [B, T])`` or ``(tokens, response_mask, attention_mask)``.
        Right padding needs no attention mask (no position attends to a later one), left padding does.

    Returns:
      ``Statistics`` over the response positions.

    Raises:
      InputError: an adapter or a batch that does not fit.
    """
    check_adapter_fits(reference, model.config, "reference")
    lora = expand(reference, model.config.num_layers)
    every = Adapter(lora["layers"])
    statistics = init_statistics(every)
    for batch in batches:
        tokens, response, *rest = batch
        _check_response(model, tokens, response)
        attention = rest[0] if rest else None
        statistics = _add(model, params, lora, statistics, tokens, jnp.asarray(response, bool), attention)
    return _adapted_layers(reference, statistics)


def _check_response(model, tokens, response):
    check_tokens(model, tokens)
    check_array(response, "response_mask")
    if response.shape != tokens.shape:
        raise InputError(f"response_mask is {list(response.shape)}; expected {list(tokens.shape)} as tokens")


@functools.partial(jax.jit, static_argnames="model", donate_argnames="statistics")
def _add(model, params, lora, statistics: Statistics, tokens, response, attention):
    roots = {"layers": {module: {"root": root} for module, root in statistics.root.items()}}
    collections = {**variables(params, lora), "statistics": roots}
    _, captured = model.apply(
        collections, tokens, attention, response_mask=response, output="hidden", mutable=["statistics"]
    )
    found = captured["statistics"]["layers"]
    parts = {name: {m: found[m][name] for m in statistics.gram} for name in ("gram", "input_square", "root")}
    return add_batch(statistics, **parts, mask=response)


def _adapted_layers(reference: Adapter, statistics: Statistics) -> Statistics:
    """Keep the layers that the adapter has."""
    if not reference.layers:
        return statistics

    def keep(tree):
        return {m: value[np.asarray(layer_indices(reference, m))] for m, value in tree.items()}

    return statistics._replace(
        gram=keep(statistics.gram), input_square=keep(statistics.input_square), root=keep(statistics.root)
    )


def collect_gradients(
    model: Llama, params, reference: Adapter, batches: Iterable, *, objective: str = "snip", beta: float = 0.1
):
    """Average |∂L/∂W| over examples, for the SNIP scores.

    Args:
      model, params: from ``load_model``.
      reference: W_e.
      batches: for ``snip`` of ``(tokens, response_mask)``, each ``[B, T]``; for ``preference_snip`` of
        ``(chosen, chosen_mask, rejected, rejected_mask)``.
      objective: ``snip``: L is the mean negative log-likelihood of an example's response tokens;
        ``preference_snip``: the DPO loss of a pair, with the base alone as reference policy.
      beta: β of the DPO loss.

    Returns:
      Tree of the reference's factors, float32: the mean over examples of the absolute gradient. One
      example's gradient is in memory at a time. Rows without a response do not count.

    Raises:
      InputError: an unknown objective, or an adapter or a batch that does not fit.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"objective is {objective!r}; expected one of {', '.join(OBJECTIVES)}")
    check_adapter_fits(reference, model.config, "reference")
    factors = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(reference.factors))
    adapter = dataclasses.replace(reference, factors=factors)
    total = jax.tree.map(jnp.zeros_like, factors)
    count = jnp.float32(0)
    width = 2 if objective == "snip" else 4
    for batch in batches:
        if len(batch) != width:
            raise InputError(f"objective {objective!r} takes batches of {width} arrays, found {len(batch)}")
        for tokens, mask in zip(batch[::2], batch[1::2], strict=True):
            _check_response(model, tokens, mask)
        batch = tuple(jnp.asarray(part) for part in batch)
        total, count = _add_gradients(model, params, adapter, total, count, batch, jnp.float32(beta))
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), total)


def _response_log_probability(model, params, lora, tokens, mask):
    """Sum of the response tokens' log-probabilities of one row ``[T]``, and how many there are."""
    scores = model.apply(variables(params, lora), tokens[None])[0, :-1]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), tokens[1:, None], axis=-1)[:, 0]
    keep = mask[1:]
    return jnp.sum(jnp.where(keep, chosen, 0.0)), jnp.sum(keep)


def _loss(factors, adapter, model, params, row, beta):
    lora = expand(dataclasses.replace(adapter, factors=factors), model.config.num_layers)
    total, count = _response_log_probability(model, params, lora, row[0], row[1])
    if len(row) == 2:
        return -total / jnp.maximum(count, 1)
    rejected, _ = _response_log_probability(model, params, lora, row[2], row[3])
    base, _ = _response_log_probability(model, params, None, row[0], row[1])
    base_rejected, _ = _response_log_probability(model, params, None, row[2], row[3])
    return -jax.nn.log_sigmoid(beta * ((total - base) - (rejected - base_rejected)))


@functools.partial(jax.jit, static_argnames="model", donate_argnames=("total", "count"))
def _add_gradients(model, params, adapter: Adapter, total, count, batch, beta):
    def one_row(state, row):
        total, count = state
        counts = jnp.any(row[1][1:])
        gradient = jax.grad(_loss)(adapter.factors, adapter, model, params, row, beta)
        total = jax.tree.map(lambda t, g: t + jnp.where(counts, jnp.abs(g), 0.0), total, gradient)
        return (total, count + counts), None

    return jax.lax.scan(one_row, (total, count), batch)[0]


def collect_loss(model: Llama, params, adapter: Adapter | None, batches: Iterable) -> jax.Array:
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
    return _mean(model, params, adapter, batches, None)


def collect_openings(model: Llama, params, adapter: Adapter | None, batches: Iterable, *, depth: int) -> jax.Array:
    """Average over examples how likely the model begins with the response's first tokens.

    Args:
      model, params, adapter, batches: as for ``collect_loss``.
      depth: how many tokens; of a shorter response, all.

    Returns:
      float32 scalar: the mean over examples of the product of the tokens' probabilities. Rows without a response
      do not count.

    Raises:
      InputError: a depth below 1, or an adapter or a batch that does not fit.
    """
    if depth < 1:
        raise InputError(f"depth is {depth}; expected at least 1")
    return _mean(model, params, adapter, batches, depth)


def _mean(model, params, adapter, batches, depth) -> jax.Array:
    """Mean loss, or with a depth the mean probability of an opening, over the rows that have a response."""
    lora = prepare(model, adapter)
    total, count = jnp.float32(0), jnp.float32(0)
    for tokens, mask in batches:
        _check_response(model, tokens, mask)
        total, count = _add_rows(model, params, lora, total, count, jnp.asarray(tokens), jnp.asarray(mask), depth)
    return total / jnp.maximum(count, 1)


def _row_losses(model, params, lora, tokens, mask):
    """Mean negative log-likelihood ``[B]`` of the response tokens of every row, and which rows have one."""
    keep = mask[:, 1:].astype(bool)
    values = token_log_probabilities(model, params, lora, tokens)
    means = -jnp.sum(jnp.where(keep, values, 0.0), axis=1) / jnp.maximum(jnp.sum(keep, axis=1), 1)
    return means, jnp.any(keep, axis=1)


def _row_openings(model, params, lora, tokens, mask, depth):
    """Probability ``[B]`` of the first response tokens of every row, and which rows have a response."""
    keep = mask[:, 1:].astype(bool)
    first = keep & (jnp.cumsum(keep, axis=1) <= depth)
    values = token_log_probabilities(model, params, lora, tokens)
    counts = jnp.any(keep, axis=1)
    return jnp.where(counts, jnp.exp(jnp.sum(jnp.where(first, values, 0.0), axis=1)), 0.0), counts


@functools.partial(jax.jit, static_argnames=("model", "depth"))
def _add_rows(model, params, lora, total, count, tokens, mask, depth):
    if depth is None:
        values, counts = _row_losses(model, params, lora, tokens, mask)
    else:
        values, counts = _row_openings(model, params, lora, tokens, mask, depth)
    return total + jnp.sum(values), count + jnp.sum(counts)


def collect_loss_gradient(model: Llama, params, adapter: Adapter, batches: Iterable):
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
    check_adapter_fits(adapter, model.config, "adapter")
    factors = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(adapter.factors))
    adapter = dataclasses.replace(adapter, factors=factors)
    total, count = jax.tree.map(jnp.zeros_like, factors), jnp.float32(0)
    for batch in batches:
        if len(batch) != 2:
            raise InputError(f"the gradient of the loss takes batches of 2 arrays, found {len(batch)}")
        _check_response(model, *batch)
        tokens, mask = (jnp.asarray(part) for part in batch)
        total, count = _add_loss_gradient(model, params, adapter, total, count, tokens, mask)
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), total)


@functools.partial(jax.jit, static_argnames="model", donate_argnames=("total", "count"))
def _add_loss_gradient(model, params, adapter: Adapter, total, count, tokens, mask):
    def loss(factors):
        lora = expand(dataclasses.replace(adapter, factors=factors), model.config.num_layers)
        means, counts = _row_losses(model, params, lora, tokens, mask)
        return jnp.sum(means), jnp.sum(counts)

    gradient, rows = jax.grad(loss, has_aux=True)(adapter.factors)
    return jax.tree.map(jnp.add, total, gradient), count + rows
