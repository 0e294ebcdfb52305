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
from nlsr_jax.parallel import layout_of
from nlsr_jax.types import Params


def apply_carried(model: Llama, params: Params, carried: Carried) -> tuple[Llama, Any]:
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
