"""One pass over the calibration data: statistics of the module inputs, or gradients of the factors.

Axis legend: B batch, T positions, L layers, r rank, k in-features, d out-features.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, check_same_structure, layer_indices
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.calibration.measures import measured
from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.calibration.streamed import layer_of
from nlsr_jax.calibration.streamed_passes import (
    Source,
    stream_factor_gradient,
    stream_row_gradients,
    stream_statistics,
)
from nlsr_jax.errors import InputError
from nlsr_jax.models.context import final_logits
from nlsr_jax.models.llama import Llama, hidden_states, variables
from nlsr_jax.models.lora import check_array, check_tokens, expand, prepare
from nlsr_jax.models.shared_prefix import Rows, cut_prefix
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.models.token_log_probabilities import head_of, log_probabilities
from nlsr_jax.nlsr.statistics import Statistics, add_batch, init_statistics, merge
from nlsr_jax.types import Gradients, Params

OBJECTIVES = ("snip", "preference_snip")


def collect_statistics(model: Llama, params: Params, reference: Adapter, batches: Iterable) -> Statistics:
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
    nothing = init_statistics(Adapter(lora["layers"]))
    if isinstance(params, StreamedParams):
        parts = stream_layer_statistics(
            model, params, batches, lambda layer, weights: (weights, layer_of(lora, layer))
        )
        return _adapted_layers(reference, _stacked(nothing, [part for _, part in parts]))
    found = over_batches(_measure_statistics, model, params, lora, _with_masks(model, batches))
    statistics = next(found, None) or nothing
    return _adapted_layers(reference, functools.reduce(merge, found, statistics))


def stream_layer_statistics(
    model: Llama, params: StreamedParams, batches: Iterable, source: Source
) -> Iterator[tuple[int, Statistics]]:
    """Yield ``(layer, statistics)`` of ``collect_statistics`` layer by layer, their leading axis 1.

    Args:
      model, params: from ``stream_model``.
      batches: see ``collect_statistics``.
      source: see ``Source``.

    Raises:
      InputError: a batch that does not fit.
    """
    return stream_statistics(model, params, _with_masks(model, batches), source)


def _with_masks(model: Llama, batches: Iterable) -> Iterator[Rows]:
    for tokens, response, *rest in batches:
        check_response(model, tokens, response)
        response = response.astype(bool)
        yield Rows(tokens, rest[0], response) if rest else cut_prefix(model, tokens, response)


def _stacked(nothing: Statistics, layers: list[Statistics]) -> Statistics:
    """Put the statistics of single layers together."""
    if not layers:
        return nothing
    trees = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(part[:3] for part in layers))
    return layers[0]._replace(**dict(zip(Statistics._fields, trees, strict=False)))


def check_response(model: Llama, tokens: jax.Array, response: jax.Array) -> None:
    """Refuse tokens that the model has not, and a mask of another shape."""
    check_tokens(model, tokens)
    check_array(response, "response_mask")
    if response.shape != tokens.shape:
        raise InputError(f"response_mask is {list(response.shape)}; expected {list(tokens.shape)} as tokens")


def _measure_statistics(model, params, lora, batch: Rows) -> Statistics:
    none = init_statistics(Adapter(lora["layers"]))
    roots = {"layers": {module: {"root": root} for module, root in none.root.items()}}
    collections = {**variables(params, lora), "statistics": roots}
    _, captured = model.apply(
        collections,
        batch.tokens,
        batch.attention,
        response_mask=batch.response,
        prefix=batch.prefix,
        output="hidden",
        mutable=["statistics"],
    )
    found = captured["statistics"]["layers"]
    parts = {name: {m: found[m][name] for m in none.gram} for name in ("gram", "input_square", "root")}
    return add_batch(none, **parts, mask=batch.response)


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
    model: Llama,
    params: Params,
    reference: Adapter,
    batches: Iterable,
    *,
    objective: str = "snip",
    beta: float = 0.1,
) -> Gradients:
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
    adapter = _wide(reference)
    width = 2 if objective == "snip" else 4

    def checked():
        for batch in batches:
            if len(batch) != width:
                raise InputError(f"objective {objective!r} takes batches of {width} arrays, found {len(batch)}")
            for tokens, mask in zip(batch[::2], batch[1::2], strict=True):
                check_response(model, tokens, mask)
            yield tuple(batch)

    if isinstance(params, StreamedParams):
        parts = iter([stream_row_gradients(_row_loss, model, params, adapter, jnp.float32(beta), checked())])
    else:
        parts = over_batches(_measure_gradients, model, params, (adapter, jnp.float32(beta)), checked())
    return mean_of(parts, adapter.factors)


def _response_log_probability(model, params, states, tokens, mask):
    """Sum of the response tokens' log-probabilities of one row ``[T]``, and how many there are."""
    scores = final_logits(model.config, states, head_of(model, params))[0, :-1]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), tokens[1:, None], axis=-1)[:, 0]
    keep = mask[1:]
    return jnp.sum(jnp.where(keep, chosen, 0.0)), jnp.sum(keep)


def _row_loss(model, params, states, beta, row):
    """Loss of a row from the states ``[1, T, D]`` of its texts, then, of two texts, from the base's own."""
    totals, counts = zip(
        *(
            _response_log_probability(model, params, one, *row[first : first + 2])
            for one, first in zip(states, itertools.cycle(range(0, len(row), 2)), strict=False)
        ),
        strict=True,
    )
    if len(row) == 2:
        return -totals[0] / jnp.maximum(counts[0], 1)
    total, rejected, base, base_rejected = totals
    return -jax.nn.log_sigmoid(beta * ((total - base) - (rejected - base_rejected)))


def _loss(factors, adapter, model, params, row, beta):
    lora = expand(dataclasses.replace(adapter, factors=factors), model.config.num_layers)
    texts = row[::2]
    loras = [lora] * len(texts) + ([] if len(texts) == 1 else [None] * len(texts))
    states = [
        hidden_states(model, params, one, text[None])
        for one, text in zip(loras, itertools.cycle(texts), strict=False)
    ]
    return _row_loss(model, params, states, beta, row)


def _measure_gradients(model, params, given, batch):
    """Sum of the absolute gradients of the rows of a batch, and how many rows count."""
    adapter, beta = given

    def one_row(state, row):
        total, count = state
        counts = jnp.any(row[1][1:])
        gradient = jax.grad(_loss)(adapter.factors, adapter, model, params, row, beta)
        total = jax.tree.map(lambda t, g: t + jnp.where(counts, jnp.abs(g), 0.0), total, gradient)
        return (total, count + counts), None

    first = jax.tree.map(jnp.zeros_like, adapter.factors), jnp.float32(0)
    return jax.lax.scan(one_row, first, batch)[0]


@jax.jit
def _add(first, second):
    return jax.tree.map(jnp.add, first, second)


def mean_of(parts: Iterable[tuple], like: Any) -> Any:
    """Return the mean over rows of sums and counts; zeros like ``like`` where there is none."""
    return divided(*functools.reduce(_add, parts, _nothing(like)))


def _nothing(like: Any) -> tuple[Any, np.ndarray]:
    """Return the sums and the count of no rows, in host memory: nothing is compiled for them."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like), np.zeros((), np.float32)


@jax.jit
def divided(total: Any, count: jax.Array) -> Any:
    """Return a tree of sums over rows divided by their count, a float32 scalar; zeros stay where it is 0."""
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), total)


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
    return divided(*sum_loss_gradients(model, params, adapter, batches))


def sum_loss_gradients(
    model: Llama, params: Params, adapter: Adapter, batches: Iterable, so_far: tuple | None = None
) -> tuple[Gradients, jax.Array]:
    """Sum ∂L/∂W over examples; see ``collect_loss_gradient``, which divides by their number.

    Args:
      model, params, adapter, batches: see ``collect_loss_gradient``.
      so_far: the result for other examples, to which these are added; None for none.

    Returns:
      The sum, and the number of examples, a float32 scalar.

    Raises:
      InputError: an adapter or a batch that does not fit.
    """
    check_adapter_fits(adapter, model.config, "adapter")
    adapter, rows = _wide(adapter), answered_rows(model, batches)
    if isinstance(params, StreamedParams):
        parts = iter([stream_factor_gradient(sum_losses, model, params, adapter, rows)])
    else:
        parts = over_batches(_measure_loss_gradient, model, params, adapter, rows)
    return functools.reduce(_add, parts, so_far or _nothing(adapter.factors))


def sum_each_gradient(
    model: Llama,
    params: Params,
    adapters: Sequence[Adapter],
    batches: Iterable,
    so_far: Sequence[tuple | None] | None = None,
) -> list[tuple[Gradients, jax.Array]]:
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
    wide = [_wide(adapter) for adapter in adapters]
    before = [known or _nothing(wide[0].factors) for known in so_far or [None] * len(wide)]
    stacked = dataclasses.replace(wide[0], factors=_stack([dict(one.factors) for one in wide]))
    parts = over_batches(_measure_each_gradient, model, params, stacked, answered_rows(model, batches))
    total = functools.reduce(_add, parts, _stack(before))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], total) for i in range(len(wide))]


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


def _wide(adapter: Adapter) -> Adapter:
    """Return an adapter whose factors are float32."""
    factors = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(adapter.factors))
    return dataclasses.replace(adapter, factors=factors)


def _measure_loss_gradient(model, params, adapter: Adapter, batch: Rows):
    """Gradient of the sum of the rows' losses, and how many rows count."""

    def loss(factors):
        lora = expand(dataclasses.replace(adapter, factors=factors), model.config.num_layers)
        states = hidden_states(model, params, lora, batch.tokens, batch.prefix)
        return sum_losses(model, params, [states], None, batch)

    return jax.grad(loss, has_aux=True)(adapter.factors)
