"""What the passes over calibration data measure, of a model whose layers are streamed; see ``streamed``.

The sums are those of a model in memory, added in the same order.

Axis legend: B batch, T positions, D embed, L layers, r rank, N rows one by one.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, layer_scaling
from nlsr_jax.calibration.kernels import kernels_of, with_kernels
from nlsr_jax.calibration.streamed import Flow, Stream, Turn, add
from nlsr_jax.hardware import EXACT
from nlsr_jax.models.context import final_states
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import prepare
from nlsr_jax.models.shared_prefix import Rows, unpack
from nlsr_jax.models.streamed import StreamedParams, capture_layer, pull_layer
from nlsr_jax.nlsr.statistics import Statistics, add_batch, init_statistics, merge
from nlsr_jax.types import Params

Finish = Callable[..., Any]
"""``finish(model, params, states, given, batch)``: what is made of final hidden states, ``[B, T, D]`` of every
adapter. The layers of the parameters are not read. A function of a module, not a lambda."""
Source = Callable[[int, Any], tuple[Any, Any]]
"""Takes a layer and its weights; returns the weights to run with, and the layer's factors."""


def stream_values(
    finish: Finish, model: Llama, params: StreamedParams, loras: Sequence[Any], given: Any, batches: Iterable[tuple]
) -> Iterator[Any]:
    """Yield what ``finish`` makes of every batch.

    Args:
      finish: see ``Finish``.
      model, params: from ``stream_model``.
      loras: expanded adapters; None among them for the base alone.
      given: tree of arrays that all batches need.
      batches: trees of arrays, the tokens ``[B, T]`` first.
    """
    batches = list(batches)
    flows = [Flow(lora, [Rows(batch[0]) for batch in batches]) for lora in loras]
    with Stream(model, params, flows) as stream:
        stream.forward()
        end = params.end(model)
        for number, batch in enumerate(batches):
            yield _finished(end, stream.final(number), given, batch, finish=finish, model=model)


@functools.partial(jax.jit, static_argnames=("finish", "model"), compiler_options=EXACT)
def _finished(rest: Params, x, given, batch, *, finish: Finish, model: Llama):
    states = tuple(final_states(model.config, rest, one) for one in x)
    return finish(model, rest, states, given, batch)


def stream_factor_gradient(
    finish: Finish, model: Llama, params: StreamedParams, adapter: Adapter, batches: Iterable[Rows]
) -> tuple[Any, jax.Array]:
    """Return the gradient by an adapter's factors of the sum of the rows' losses, and how many rows count.

    Args:
      finish: gives the sum of the losses and the count of a batch.
      model, params: see ``stream_values``.
      adapter: of the model; float32.
      batches: rows with the positions that count.
    """
    batches = list(batches)
    flow = Flow(prepare(model, adapter), [_unmarked(rows) for rows in batches], returns=True)
    scalings = _scalings(adapter, model.config.num_layers)
    with Stream(model, params, [flow]) as stream:
        count = _turn_around(stream, finish, batches)

        def pull(turn: Turn):
            own = {module: scaling[turn.layer] for module, scaling in scalings.items()}
            return _pull_factors(turn._replace(layer=0, batch=0), own, model=model)

        return _gathered(adapter, stream.backward(pull)), count


def stream_row_gradients(
    finish: Finish, model: Llama, params: StreamedParams, adapter: Adapter, given: Any, batches: Iterable[tuple]
) -> tuple[Any, jax.Array]:
    """Return the sum of the absolute gradients of single rows by an adapter's factors, and how many rows count.

    In float32 they have the bits of a model in memory; in narrower types some entries differ by roundings.

    Args:
      finish: gives the loss of a row from the states ``[1, T, D]`` of its texts with the adapter; of several texts
        also from those of the base alone, which follow.
      model, params: see ``stream_values``.
      adapter: of the model; float32.
      given: tree of arrays that all rows need.
      batches: of tokens and response masks ``[B, T]`` of one text after the other.
    """
    batches = list(batches)
    texts = len(batches[0]) // 2 if batches else 1
    lora = prepare(model, adapter)
    loras = [lora] if texts == 1 else [lora] * texts + [None] * texts
    flows = [
        Flow(one, [Rows(np.asarray(batch[2 * (i % texts)])[:, None]) for batch in batches], returns=i < texts)
        for i, one in enumerate(loras)
    ]
    counts = [np.asarray(batch[1])[:, 1:].any(axis=1) for batch in batches]
    scalings = _scalings(adapter, model.config.num_layers)
    with Stream(model, params, flows) as stream:
        stream.forward()
        end = params.end(model)
        for number, batch in enumerate(batches):
            d = _pull_rows_head(end, stream.final(number), given, batch, finish=finish, model=model, texts=texts)
            stream.turn(number, d)
        del end

        def pull(turn: Turn):
            own = {module: scaling[turn.layer] for module, scaling in scalings.items()}
            return _pull_rows(turn._replace(layer=0, batch=0), counts[turn.batch], own, model=model)

        total = _gathered(adapter, stream.backward(pull))
    return total, jnp.float32(sum(int(np.sum(one)) for one in counts))


def stream_weight_gradients(
    finish: Finish, model: Llama, params: StreamedParams, batches: Iterable[Rows]
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Yield ``(layer, gradient)``, the last layer first: the mean gradient by the layer's matrices.

    The gradient has the structure of ``nlsr_jax.calibration.kernels.kernels_of``.

    Args:
      finish, model, params, batches: see ``stream_factor_gradient``.
    """
    batches = list(batches)
    flow = Flow(None, [_unmarked(rows) for rows in batches], returns=True)
    with Stream(model, params, [flow]) as stream:
        count = _turn_around(stream, finish, batches)

        def pull(turn: Turn):
            return _pull_kernels(turn._replace(layer=0, batch=0), model=model)

        for layer, total in stream.backward(pull):
            yield layer, jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), total)


def _unmarked(rows: Rows) -> Rows:
    """Return rows without the positions that count, which only the loss asks for."""
    return rows._replace(response=None)


def _turn_around(stream: Stream, finish: Finish, batches: Sequence[Rows]) -> jax.Array:
    """Take the only flow to the loss and begin its way back; returns how many rows count."""
    stream.forward()
    end, total = stream.params.end(stream.model), jnp.float32(0)
    for number, batch in enumerate(batches):
        (x,) = stream.final(number)
        d, count = _pull_head(end, x, batch, finish=finish, model=stream.model)
        stream.turn(number, (d,))
        total = add(total, count)
    return total


@functools.partial(jax.jit, static_argnames=("finish", "model"), compiler_options=EXACT)
def _pull_head(rest: Params, x, batch: Rows, *, finish: Finish, model: Llama):
    def loss(x):
        states = final_states(model.config, rest, unpack(x, batch.tokens.shape))
        return finish(model, rest, (states,), None, batch)

    return jax.grad(loss, has_aux=True)(x)


@functools.partial(jax.jit, static_argnames=("finish", "model", "texts"), compiler_options=EXACT)
def _pull_rows_head(rest: Params, x, given, batch, *, finish: Finish, model: Llama, texts: int):
    def one(pair):
        x, row = pair

        def loss(own):
            states = tuple(final_states(model.config, rest, one) for one in (*own, *x[texts:]))
            return finish(model, rest, states, given, row)

        return jax.grad(loss)(x[:texts])

    return jax.lax.map(one, (x, batch))


def _scaled(gradient, scalings: Mapping[str, Any]):
    """Return the derivatives by the factors from those by what is folded of them."""
    return {m: {**leaf, "b": leaf["b"] * scalings[m]} for m, leaf in gradient.items()}


@functools.partial(jax.jit, static_argnames="model", compiler_options=EXACT)
def _pull_factors(turn: Turn, scalings, *, model: Llama):
    ((x,), (rows,), (d,)) = turn.x, turn.rows, turn.d
    found, d = pull_layer(model, lambda lora: (turn.weights, lora), turn.lora, x, turn.windowed, rows, d)
    return _scaled(found, scalings), (d,)


@functools.partial(jax.jit, static_argnames="model", compiler_options=EXACT)
def _pull_rows(turn: Turn, counts, scalings, *, model: Llama):
    def one(total, row):
        x, rows, d, counts = row
        found = [
            pull_layer(model, lambda lora: (turn.weights, lora), turn.lora, *three[:1], turn.windowed, *three[1:])
            for three in zip(x, rows, d, strict=True)
        ]
        gradient = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), (pair[0] for pair in found))
        gradient = _scaled(gradient, scalings)
        total = jax.tree.map(lambda t, g: t + jnp.where(counts, jnp.abs(g), 0.0), total, gradient)
        return total, tuple(pair[1] for pair in found)

    return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, turn.lora), (turn.x, turn.rows, turn.d, counts))


@functools.partial(jax.jit, static_argnames="model", compiler_options=EXACT)
def _pull_kernels(turn: Turn, *, model: Llama):
    ((x,), (rows,), (d,)) = turn.x, turn.rows, turn.d

    def whole(kernels):
        return with_kernels(turn.weights, kernels), None

    found, d = pull_layer(model, whole, kernels_of(turn.weights), x, turn.windowed, rows, d)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), found), (d,)


def _scalings(adapter: Adapter, num_layers: int) -> dict[str, np.ndarray]:
    """Return the scaling of every layer, float32 ``[L]``; 0 where a module has no factors."""
    found = {}
    for module in adapter.factors:
        found[module] = np.zeros(num_layers, np.float32)
        found[module][list(layer_indices(adapter, module))] = layer_scaling(adapter, module)
    return found


def _gathered(adapter: Adapter, parts: Iterable[tuple[int, Any]]) -> dict[str, Any]:
    """Put what comes layer by layer into a tree of the adapter's factors."""
    found = {
        module: {f: np.zeros(leaf.shape, np.float32) for f, leaf in leaves.items()}
        for module, leaves in adapter.factors.items()
    }
    rows = {m: {layer: row for row, layer in enumerate(layer_indices(adapter, m))} for m in adapter.factors}
    for layer, tree in parts:
        for module, leaves in tree.items():
            if layer in rows[module]:
                for f, leaf in leaves.items():
                    found[module][f][rows[module][layer]] = leaf
    return jax.tree.map(jnp.asarray, found)


def stream_statistics(
    model: Llama, params: StreamedParams, batches: Iterable[Rows], source: Source
) -> Iterator[tuple[int, Statistics]]:
    """Yield ``(layer, statistics)`` of one layer after the other, their leading axis 1.

    Args:
      model, params: from ``stream_model``.
      batches: rows with the positions that count.
      source: see ``Source``.
    """
    batches = list(batches)
    with Stream(model, params, [Flow(None, batches)]) as stream:
        stream.embed()
        for layer, weights in params.layers(range(model.config.num_layers)):
            weights, lora = source(layer, weights)
            total: Statistics | None = None
            for number, rows in enumerate(batches):
                place = stream.place(0, number, layer)
                x, part = _captured(
                    weights, lora, stream.store.get(place), stream.windowed(layer), rows, model=model
                )
                stream.store.put(place, x)
                total = part if total is None else merge(total, part)
            del weights, lora
            if total is not None:
                yield layer, total


@functools.partial(jax.jit, static_argnames="model", compiler_options=EXACT)
def _captured(weights, lora, x, windowed, rows: Rows, *, model: Llama):
    none = init_statistics(Adapter(jax.tree.map(lambda leaf: leaf[None], lora)))
    roots = {module: {"root": root[0]} for module, root in none.root.items()}
    x, found = capture_layer(model, weights, lora, x, windowed, rows, roots)
    parts = {name: {m: found[m][name][None] for m in none.gram} for name in ("gram", "input_square", "root")}
    return x, add_batch(none, **parts, mask=rows.response)
