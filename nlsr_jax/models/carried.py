"""Carried tensors of an adapter meet the model: what PEFT would load into it besides the factors.

Axis legend: L layers, D embed, V vocabulary, r rank, n rows.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.formats.carried_fit import ENDS, _places, check_carried_fits, vocabulary
from nlsr_jax.formats.peft_carried import Carried, CarriedTensor
from nlsr_jax.models.carried_ends import Ends, read
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.parallel import layout_of
from nlsr_jax.types import Params


def apply_carried(model: Llama, params: Params, carried: Carried) -> tuple[Llama, Any]:
    """Put what an adapter's file carries into a model, as PEFT does: copies, rows, and products of factors.

    Factors of the embedding and of the output head are merged into their weights, in the type of the base. The
    head of a tied base comes apart from its embedding where one of them changes alone. A copy with more or fewer
    rows than the base has, of a resized vocabulary, brings its own. What the model has no place for is left out,
    see ``left_out``.

    Args:
      model, params: from ``load_model`` or ``stream_model``; they stay as they are.
      carried: from ``load_carried``.

    Returns:
      ``(model, params)``, to be used with the adapter's factors.

    Raises:
      InputError: tensors that do not fit the model, or entries that are not finite.
    """
    if not carried:
        return model, params
    check_carried_fits(carried, model.config)
    if isinstance(params, StreamedParams):
        return _apply_streamed(model, params, carried)
    found = dict(params)
    _replace_weights(found, model.config, carried)
    return _with_ends(model, found, carried)


def _with_ends(model: Llama, found: dict[str, Any], carried: Carried) -> tuple[Llama, Any]:
    """Put what is carried of embedding and head into parameters that are the caller's own."""
    size = vocabulary(carried, model.config)
    if any(carried.named(name) for name in ENDS.values()):
        layout = layout_of(found)
        ends = Ends(found["embed"], found.get("lm_head"), carried, None if layout is None else layout.mesh)
        found["embed"], head = ends.changed(size)
        if head is not None:
            found["lm_head"] = head
    config = dataclasses.replace(model.config, vocab_size=size, tied="lm_head" not in found)
    return model.clone(config=config, layout=layout_of(found)), found


def _apply_streamed(model: Llama, params: StreamedParams, carried: Carried) -> tuple[Llama, Any]:
    """Apply what is carried of layers when they are read, and the rest now."""
    values = _read_copies(model.config, carried)
    rest = params.rest("embed", "lm_head") if any(map(carried.named, ENDS.values())) else {}
    for path in [path for path in values if path[0] != "layers"]:
        (module, name), found = path, values.pop(path)
        before = rest.get(module) or params.rest(module)[module]
        rest[module] = {**before, name: _replaced(before[name], found)}
    replaced = {path[1:]: {i: one for i, one in found.items() if i is not None} for path, found in values.items()}
    if "embed" in rest:
        model, rest = _with_ends(model, rest, carried)
    files = dataclasses.replace(params.files, replaced=replaced)
    return model, dataclasses.replace(params, files=files, changed={**params.changed, **rest})


def _read_copies(config: ModelConfig, carried: Carried) -> dict[tuple[str, ...], dict[int | None, np.ndarray]]:
    """Read copies of norms, biases and projections: ``{path: {layer: value}}``, None for what is of no layer."""
    places = _places(config)
    found: dict[tuple[str, ...], dict[int | None, CarriedTensor]] = {}
    for tensor in sorted(
        carried.tensors.values(), key=lambda one: one.kind == "copy"
    ):  # those count over the base's
        name = carried.text_name(tensor.module)
        place = places.get(f"{name}.{tensor.which}")
        if tensor.kind in ("copy", "under") and place is not None and name not in ENDS.values():
            found.setdefault(place[0], {})[place[1]] = tensor
    return {path: {i: read(carried, one) for i, one in tensors.items()} for path, tensors in found.items()}


def _replace_weights(params: dict[str, Any], config: ModelConfig, carried: Carried) -> None:
    """Put copies of norms, biases and projections in the place of the base's."""
    for path, values in _read_copies(config, carried).items():
        node = params
        for step in path[:-1]:
            node[step] = dict(node[step])
            node = node[step]
        node[path[-1]] = _replaced(node[path[-1]], values)


def _replaced(leaf, values: dict[int | None, np.ndarray]):
    """Return a leaf with values in the place of all of it, or of some of its layers."""
    if None in values:
        return jax.device_put(values[None].astype(leaf.dtype), leaf.sharding)
    layers = np.array(list(values))
    rows = np.stack([value.astype(leaf.dtype) for value in values.values()])
    return jax.jit(lambda leaf, rows: leaf.at[layers].set(rows), out_shardings=leaf.sharding)(leaf, rows)
