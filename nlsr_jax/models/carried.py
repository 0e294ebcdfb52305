"""Carried tensors of an adapter meet the model: what PEFT would load into it besides the factors.

Axis legend: L layers, D embed, V vocabulary, r rank, n rows.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.formats import hugging_face  # whole, because it imports this package in turn
from nlsr_jax.formats.peft_carried import Carried, CarriedTensor
from nlsr_jax.formats.peft_carried_checks import summary
from nlsr_jax.models.carried_ends import ENDS, Ends, read, vocabulary
from nlsr_jax.models.config import ModelConfig
from nlsr_jax.models.llama import Llama
from nlsr_jax.parallel import layout_of


def apply_carried(model: Llama, params, carried: Carried) -> tuple[Llama, Any]:
    """Put what an adapter's file carries into a model, as PEFT does: copies, rows, and products of factors.

    Factors of the embedding and of the output head are merged into their weights, in the type of the base. The
    head of a tied base comes apart from its embedding where one of them changes alone. A copy with more or fewer
    rows than the base has, of a resized vocabulary, brings its own. What the model has no place for is left out,
    see ``left_out``.

    Args:
      model, params: from ``load_model``; they stay as they are.
      carried: from ``load_carried``.

    Returns:
      ``(model, params)``, to be used with the adapter's factors.

    Raises:
      InputError: tensors that do not fit the model, or entries that are not finite.
    """
    if not carried:
        return model, params
    check_carried_fits(carried, model.config)
    size = vocabulary(carried, model.config)
    found = dict(params)
    _replace_weights(found, model.config, carried)
    if any(carried.named(name) for name in ENDS.values()):
        layout = layout_of(params)
        ends = Ends(params["embed"], params.get("lm_head"), carried, None if layout is None else layout.mesh)
        found["embed"], head = ends.changed(size)
        if head is not None:
            found["lm_head"] = head
    config = dataclasses.replace(model.config, vocab_size=size, tied="lm_head" not in found)
    return model.clone(config=config, layout=layout_of(found)), found


def left_out(carried: Carried, config: ModelConfig) -> list[CarriedTensor]:
    """Return the carried tensors that a model of this config has no place for."""
    known = _places(config)

    def fits(tensor: CarriedTensor) -> bool:
        name = carried.text_name(tensor.module)
        if name in ENDS.values():
            weight = tensor.kind not in ("copy", "under") or tensor.which == "weight"
            return weight and (
                tensor.kind != "rows" or config.tied or carried.own_row_ids(tensor.module) is not None
            )
        return tensor.kind in ("copy", "under") and f"{name}.{tensor.which}" in known

    return [tensor for tensor in carried.tensors.values() if not fits(tensor)]


def note_left_out(carried: Carried, config: ModelConfig, where: str) -> list[str]:
    """Say what of an adapter's file does not take part in the forward pass; an empty list where all does."""
    tensors = left_out(carried, config)
    if not tensors:
        return []
    return [
        f"{where}: the forward pass leaves out {summary(carried, tensors)}, for which the base model has no place; "
        "what is measured with it is measured without them"
    ]


def _places(config: ModelConfig) -> dict[str, tuple[tuple[str, ...], int | None, tuple[int, ...]]]:
    """Return where a weight of this name lies in the parameter tree: its path, its layer and its shape."""
    found: dict[str, tuple[tuple[str, ...], int | None, tuple[int, ...]]] = {}
    for weight in hugging_face.weight_table(config):
        stacked = weight.path[0] == "layers"
        shape = weight.shape[1:] if stacked else weight.shape
        found |= {name: (weight.path, i if stacked else None, shape) for i, name in enumerate(weight.names)}
    return found


def check_carried_fits(carried: Carried, config: ModelConfig) -> None:
    """Check the shapes of all that is applied to a model, before any of it is read.

    Raises:
      InputError: naming the first tensor that does not fit.
    """
    vocabulary(carried, config)
    places, ignored = _places(config), left_out(carried, config)
    for tensor in carried.tensors.values():
        if tensor in ignored:
            continue
        name, shape = carried.text_name(tensor.module), carried.shape(tensor)
        if name in ENDS.values():
            wide = {("embedding", "A"): None, ("factor", "B"): None, ("embedding", "B"): 0}
            axis = wide.get((tensor.kind, tensor.which), 1)
            expected = (
                f"a matrix of {config.hidden_size} columns" if axis else f"a matrix of width {config.hidden_size}"
            )
            fits = len(shape) == 2 and (axis is None or shape[axis] == config.hidden_size)
        else:
            expected = str(list(places[f"{name}.{tensor.which}"][2]))
            fits = shape == places[f"{name}.{tensor.which}"][2]
        if not fits:
            raise InputError(
                f"{carried.where}: {tensor.key!r} is {list(shape)}; expected {expected}, the adapter belongs to "
                "another base"
            )


def _replace_weights(params: dict[str, Any], config: ModelConfig, carried: Carried) -> None:
    """Put copies of norms, biases and projections in the place of the base's."""
    places = _places(config)
    found: dict[tuple[str, ...], dict[int | None, CarriedTensor]] = {}
    for tensor in sorted(
        carried.tensors.values(), key=lambda one: one.kind == "copy"
    ):  # those count over the base's
        name = carried.text_name(tensor.module)
        place = places.get(f"{name}.{tensor.which}")
        if tensor.kind in ("copy", "under") and place is not None and name not in ENDS.values():
            found.setdefault(place[0], {})[place[1]] = tensor
    for path, tensors in found.items():
        node = params
        for step in path[:-1]:
            node[step] = dict(node[step])
            node = node[step]
        node[path[-1]] = _replaced(node[path[-1]], {i: read(carried, one) for i, one in tensors.items()})


def _replaced(leaf, values: dict[int | None, np.ndarray]):
    """Return a leaf with values in the place of all of it, or of some of its layers."""
    if None in values:
        return jax.device_put(values[None].astype(leaf.dtype), leaf.sharding)
    layers = np.array(list(values))
    rows = np.stack([value.astype(leaf.dtype) for value in values.values()])
    return jax.jit(lambda leaf, rows: leaf.at[layers].set(rows), out_shardings=leaf.sharding)(leaf, rows)
