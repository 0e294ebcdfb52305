"""Write the factors of single experts as those of whole parameters; see ``peft_parameters``."""

import collections
import dataclasses
import os
import re
from collections.abc import Mapping

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, layer_scaling
from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import check_finite
from nlsr_jax.files.safetensors_files import SafetensorsWriter
from nlsr_jax.formats.peft_parameters import Piece, stacked_name
from nlsr_jax.modules import Slice, slice_of

_NAME = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")


def of_parameters(adapter: Adapter) -> dict[str, list[str]]:
    """Return the modules that are experts of a parameter, by the parameter's path in the decoder layer.

    Raises:
      InputError: experts that are missing.
    """
    found: dict[str, list[Slice]] = collections.defaultdict(list)
    for module in adapter.factors:
        if one := slice_of(module):
            found[one.parameter].append(one)
    for parameter, slices in found.items():
        slices.sort(key=lambda one: one.expert)
        absent = sorted(set(range(len(slices))) - {one.expert for one in slices})
        if absent:
            raise InputError(f"adapter: has no {Slice(parameter, absent[0]).name}; expected all experts from 0")
    return {parameter: [one.name for one in slices] for parameter, slices in found.items()}


def evened(shapes: Adapter) -> Adapter:
    """Return an adapter's shapes with one rank for all experts of a parameter, the largest of theirs.

    Args:
      shapes: arrays or ``jax.ShapeDtypeStruct`` leaves.

    Raises:
      InputError: experts of one parameter of different scalings or layers, which no config can hold.
    """
    factors = dict(shapes.factors)
    for parameter, modules in of_parameters(shapes).items():
        if len({(tuple(layer_scaling(shapes, m)), layer_indices(shapes, m)) for m in modules}) > 1:
            raise InputError(f"adapter: the experts of {parameter} have several scalings or layers; expected one")
        rank = max(factors[module]["a"].shape[1] for module in modules)
        for module in modules:
            a, b = (factors[module][factor] for factor in ("a", "b"))
            factors[module] = {
                "a": jax.ShapeDtypeStruct((a.shape[0], rank, a.shape[2]), a.dtype),
                "b": jax.ShapeDtypeStruct((*b.shape[:2], rank), b.dtype),
            }
    return dataclasses.replace(shapes, factors=factors)


class ExpertsWriter(SafetensorsWriter):
    """A safetensors file whose tensors of all experts are written expert by expert.

    Args:
      path: the file.
      tensors: ``{name: (dtype, shape)}``; those of experts are named by their modules, with one rank a parameter.
      metadata: see ``SafetensorsWriter``.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
        metadata: dict[str, str] | None = None,
    ):
        self._pieces, whole = _pieces(tensors)
        self._waiting: dict[str, dict[int, np.ndarray]] = collections.defaultdict(dict)
        self._sizes = dict(tensors)
        super().__init__(path, whole, metadata)

    def names(self) -> tuple[str, ...]:
        """Return the names in the order of the file, the experts of one tensor one after the other."""
        own: dict[str, list[str]] = collections.defaultdict(list)
        for name, piece in self._pieces.items():
            own[piece.key].append(name)
        return tuple(name for key in super().names() for name in own.get(key, [key]))

    def write(self, name: str, value: np.ndarray, *, what: str = "", made: str = "") -> None:
        """Write one tensor; see ``SafetensorsWriter``. An expert of a smaller rank is filled up with zeros."""
        if name not in self._pieces:
            super().write(name, value, what=what, made=made)
            return
        check_finite(value, what or f"tensor {name}", made)
        piece, (dtype, shape) = self._pieces[name], self._sizes[name]
        filled = np.zeros(shape, dtype)
        filled[: value.shape[0], : value.shape[1]] = value
        parts = self._waiting[piece.key]
        parts[piece.expert] = filled
        if len(parts) == piece.experts:
            stack = [parts[expert] for expert in range(piece.experts)]
            if piece.factor == "A":
                super().write(piece.key, np.concatenate(stack))
            else:
                super().write(piece.key, np.stack(stack, axis=-1).reshape(shape[0], -1))
            del self._waiting[piece.key]


def _pieces(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[dict[str, Piece], dict]:
    """Return the pieces of tensors of all experts by the names of single ones, and all tensors of the file."""
    slices = {
        name: (one, match["factor"])
        for name in tensors
        if (match := _NAME.fullmatch(name)) and (one := slice_of(match["path"]))
    }
    counts = collections.Counter((one.parameter, factor) for one, factor in slices.values())
    parameters = {one.parameter for one, _ in slices.values()}
    keys = {parameter: stacked_name(parameter, parameters) for parameter in parameters}
    pieces, whole = {}, {name: value for name, value in tensors.items() if name not in slices}
    for name, (one, factor) in sorted(slices.items(), key=lambda item: item[1][0].expert):
        count, (dtype, shape) = counts[one.parameter, factor], tensors[name]
        piece = pieces[name] = Piece(f"{keys[one.parameter]}.lora_{factor}.weight", factor, one.expert, count)
        whole[piece.key] = dtype, (shape[0] * count, shape[1]) if factor == "A" else (shape[0], shape[1] * count)
    return pieces, whole
