"""One pass of the reference over the calibration data: statistics of the inputs, or gradients of its factors.

Axis legend: B batch, T positions, L layers, r rank, k in-features, d out-features.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.calibration.streamed import layer_of
from nlsr_jax.calibration.streamed_passes import Source, stream_row_gradients, stream_statistics
from nlsr_jax.calibration.summing import check_response, mean_of, wide
from nlsr_jax.errors import InputError
from nlsr_jax.models.context import final_logits
from nlsr_jax.models.llama import Llama, hidden_states, variables
from nlsr_jax.models.lora import expand
from nlsr_jax.models.shared_prefix import Rows, cut_prefix
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.models.token_log_probabilities import head_of
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
    adapter = wide(reference)
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
