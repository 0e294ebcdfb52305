"""A run without an aligned adapter: the base is the aligned model, and the adapters of the run are lifted.

The lifted adapters are read as files are, a few layers at a time; see ``nlsr_jax.lift``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, module_names
from nlsr_jax.formats.peft import AdapterFile
from nlsr_jax.formats.safetensors_files import empty_aligned
from nlsr_jax.nlsr.direction import Direction
from nlsr_jax.nlsr.lift import check_direction, direction_rows, lift_factors


class LiftedFile:
    """One of the three adapters of a lift, with the interface of an ``AdapterFile``.

    Args:
      file: the customer's adapter.
      direction: V, or None.
      kind: ``"weak"``, ``"aligned"`` or ``"finetuned"``.

    Raises:
      InputError: the direction does not cover the adapter.
    """

    def __init__(self, file: AdapterFile, direction: Direction | None, kind: str):
        self._file, self._kind = file, kind
        self._direction = None if direction is None else direction.adapter
        self._own = file.shapes()
        check_adapter(self._own, "finetuned")
        check_direction(self._own, self._direction)
        self.layout, self.notes = file.layout, list(file.notes) if kind == "finetuned" else []

    def check_layers(self, num_layers: int) -> None:
        """See ``AdapterFile.check_layers``."""
        self._file.check_layers(num_layers)

    def slot(self, module: str) -> int:
        """Return the rank of V in one module, which stands before the customer's own; 0 without V."""
        return 0 if self._direction is None else self._direction.factors[module]["a"].shape[1]

    def shapes(self) -> Adapter:
        """Return the lifted adapter with ``jax.ShapeDtypeStruct`` leaves."""
        factors = {}
        for module, leaf in self._own.factors.items():
            (count, rank, k), d = leaf["a"].shape, leaf["b"].shape[1]
            whole = rank + self.slot(module)
            factors[module] = {
                "a": jax.ShapeDtypeStruct((count, whole, k), leaf["a"].dtype),
                "b": jax.ShapeDtypeStruct((count, d, whole), leaf["b"].dtype),
            }
        return dataclasses.replace(self._own, factors=factors)

    def factors(self, module: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Read and lift the factors of one module name; see ``AdapterFile.factors``."""
        own = self._file.factors(module, rows)
        other = None if self._direction is None else direction_rows(self._own, self._direction, module, rows)
        return jax.device_get(lift_factors(own, other)[self._kind])

    def load(self) -> Adapter:
        """Read and lift the whole adapter."""
        shapes = self.shapes()
        return dataclasses.replace(shapes, factors={m: self.factors(m) for m in module_names(shapes.factors)})


class Trimmed:
    """What the written adapter keeps of the rank axis: the customer's own, and of V what masks have touched.

    Args:
      shapes: the lifted adapter, with ``jax.ShapeDtypeStruct`` leaves.
      kept: ``{module: [r_V + r]}`` bool.
    """

    def __init__(self, shapes: Adapter, kept: Mapping[str, np.ndarray]):
        self._index = {module: np.flatnonzero(keep) for module, keep in kept.items()}
        self._shapes = shapes

    def shapes(self) -> Adapter:
        """Return the shapes of the written adapter."""

        def cut(module, factor, leaf):
            count, one, two = leaf.shape
            rank = self._index[module].size
            return jax.ShapeDtypeStruct((count, rank, two) if factor == "a" else (count, one, rank), leaf.dtype)

        factors = {m: {f: cut(m, f, leaf) for f, leaf in pair.items()} for m, pair in self._shapes.factors.items()}
        return dataclasses.replace(self._shapes, factors=factors)

    def factors(self, module: str, leaf: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the factors ``{"a", "b"}`` of some layers of one module, cut to what is kept."""
        index = self._index[module]
        if index.size == leaf["a"].shape[1]:
            return {f: np.asarray(leaf[f]) for f in ("a", "b")}
        return {
            "a": _packed(np.asarray(leaf["a"])[:, index]),
            "b": _packed(np.asarray(leaf["b"])[:, :, index]),
        }


def _packed(array: np.ndarray) -> np.ndarray:
    out = empty_aligned(array.shape, array.dtype)
    out[...] = array
    return out


def touched(mask: Mapping[str, np.ndarray], pruned: np.ndarray, slot: int) -> np.ndarray:
    """Say which places of the rank axis of one module the written adapter needs.

    Args:
      mask: ``{"a": [L, r_V + r, k], "b": [L, d, r_V + r]}`` bool, of one module.
      pruned: ``[L]`` bool, True = left alone.
      slot: r_V.

    Returns:
      ``[r_V + r]`` bool: True for the customer's own, and for a place of V with a transplanted entry in a layer.
    """
    keep = np.array(np.asarray(mask["b"])[~np.asarray(pruned)].any(axis=(0, 1)))
    keep[slot:] = True
    return keep
