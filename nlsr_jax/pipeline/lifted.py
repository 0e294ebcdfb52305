"""The adapters of a lift, read as files are, a few layers at a time; see ``nlsr_jax.lift``."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.formats.peft import AdapterFile
from nlsr_jax.modules import MODULES
from nlsr_jax.nlsr.direction import Direction
from nlsr_jax.nlsr.lift import Lifted, check_direction, direction_rows, lift_factors
from nlsr_jax.nlsr.update import check_update, factor_update, rotation_keys, scaled, update_layers, update_rank
from nlsr_jax.pipeline.chunks import Chunk
from nlsr_jax.pipeline.sources import read_piece
from nlsr_jax.random_streams import stream

_KEPT = 4
"""Layers whose factored update is kept: the three adapters of a lift are read one after the other."""
_SMALL = 2**28
"""Bytes of an update up to which all its layers are kept: it is read once for each stage of a run."""


class Slots(NamedTuple):
    """The slots of the rank axis of one module, in their order.

    Attributes:
      aligned: rank of Wₐ where it has a slot of its own, which is equal in all adapters; else 0.
      direction: rank of V; 0 without one.
      own: rank of the customer's update.
    """

    aligned: int
    direction: int
    own: int

    @property
    def of_direction(self) -> tuple[int, int]:
        """The first place of V and the first behind it."""
        return self.aligned, self.aligned + self.direction


class Parts(NamedTuple):
    """What some layers of one module are lifted from: factors ``{"a", "b"}`` each, None for what there is not."""

    update: Any
    direction: Any
    aligned: Any


class Lift:
    """What the adapters of a lift are made from.

    Each layer's update is factored by itself, so that the result does not depend on how layers are read.

    Args:
      finetuned: the customer's adapter.
      direction: V out of two models; None without one.
      aligned: Wₐ; None where the base is the aligned model.
      weak: W₀, beside ``aligned``: V is Wₐ − W₀. Without, V is Wₐ.
      basis: of the update and of Wₐ − W₀, see ``nlsr_jax.nlsr.update.factor_update``; ``"turned"`` turns a
        direction out of two models too, which otherwise keeps its singular vectors.
      key: PRNG key of the rotations.

    Raises:
      InputError: adapters or a direction that do not fit the fine-tuned adapter.
    """

    def __init__(
        self,
        finetuned: AdapterFile,
        direction: Direction | None = None,
        *,
        aligned: AdapterFile | None = None,
        weak: AdapterFile | None = None,
        basis: str,
        key: jax.Array,
    ):
        self.finetuned, self.aligned, self.weak = finetuned, aligned, weak
        self.basis, self._keys = basis, {"update": key, "direction": stream(key, "direction")}
        self.residual: Mapping[str, Any] = {} if direction is None else direction.residual
        self._own = finetuned.shapes()
        known = f"fine-tuned ({finetuned.path})"
        check_update(self._own, _shapes(aligned), basis, (f"aligned ({aligned and aligned.path})", known))
        if aligned is not None and weak is not None:
            names = (f"weak ({weak.path})", f"aligned ({aligned.path})")
            check_update(aligned.shapes(), weak.shapes(), basis, names)
        self._direction = None if direction is None else direction.adapter
        check_direction(self._own, self._direction)
        if self._direction is not None and basis == "turned":
            self._direction = factor_update(self._direction, basis=basis, key=self._keys["direction"])
        self._as_read = aligned is None and basis == "own"
        self._update = self._own if self._as_read else self._update_shapes()
        self._slots = {module: self._slots_of(module) for module in self._update.factors}
        self._shapes = self._lifted_shapes()
        small = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self._update.factors)) <= _SMALL
        self._row = functools.lru_cache(None if small else _KEPT)(self._factor_row)

    @property
    def is_shared(self) -> bool:
        """Whether Wₐ is V as well: its slot then is the direction's, and the fine-tuned adapter needs all of it."""
        return self.aligned is not None and self.weak is None

    def _update_shapes(self) -> Adapter:
        factors = {}
        for module, leaf in self._own.factors.items():
            (count, rank, k), d = leaf["a"].shape, leaf["b"].shape[1]
            if self.aligned is None:
                rank = update_rank(rank, 0, d, k, "svd")
            else:
                rank = update_rank(rank, _rank(self.aligned, module), d, k, self.basis)
            a, b = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((count, rank, k), (count, d, rank)))
            factors[module] = {"a": a, "b": b}
        return Adapter(factors, layers=self._own.layers)

    def slots(self, module: str) -> Slots:
        """Return the slots of the rank axis of one module."""
        return self._slots[module]

    def _slots_of(self, module: str) -> Slots:
        leaf = self._update.factors[module]
        own, k, d = leaf["a"].shape[1], leaf["a"].shape[2], leaf["b"].shape[1]
        if self._direction is not None:
            return Slots(0, self._direction.factors[module]["a"].shape[1], own)
        if self.aligned is None:
            return Slots(0, 0, own)
        rank = _rank(self.aligned, module)
        if self.weak is None:
            return Slots(0, rank, own)
        return Slots(rank, update_rank(rank, _rank(self.weak, module), d, k, self.basis), own)

    def shapes(self) -> Adapter:
        """Return a lifted adapter with ``jax.ShapeDtypeStruct`` leaves."""
        return dataclasses.replace(self._shapes, factors=dict(self._shapes.factors))

    def _lifted_shapes(self) -> Adapter:
        factors = {}
        for module, leaf in self._update.factors.items():
            (count, _, k), d = leaf["a"].shape, leaf["b"].shape[1]
            whole = sum(self._slots[module])
            factors[module] = {
                "a": jax.ShapeDtypeStruct((count, whole, k), leaf["a"].dtype),
                "b": jax.ShapeDtypeStruct((count, d, whole), leaf["b"].dtype),
            }
        return dataclasses.replace(self._update, factors=factors)

    def factors(self, kind: str, module: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Read and lift some layers of one module.

        Args:
          kind: ``"weak"``, ``"aligned"`` or ``"finetuned"``.
          module, rows: see ``AdapterFile.factors``.
        """
        return jax.device_get(lift_factors(*self._parts(module, rows))[kind])

    def _parts(self, module: str, rows: slice) -> Parts:
        if self._as_read:
            found = Parts(self.finetuned.factors(module, rows), None, None)
        else:
            count = self._update.factors[module]["a"].shape[0]
            layers = [self._row(module, row) for row in range(*rows.indices(count))]
            found = jax.tree.map(lambda *leaves: np.concatenate(leaves), *layers)
        if self._direction is None:
            return found
        return found._replace(direction=direction_rows(self._update, self._direction, module, rows))

    def _factor_row(self, module: str, row: int) -> Parts:
        rows = slice(row, row + 1)
        tuned, aligned, weak = (
            None if file is None else scaled(read_piece(file, Chunk(module, rows)), module)
            for file in (self.finetuned, self.aligned, self.weak)
        )
        layers = layer_indices(self._own, module)[rows]

        def factored(name, one, other):
            keys = rotation_keys(self._keys[name], module, layers) if self.basis == "turned" else None
            return _update_layers(one, other, basis=self.basis, keys=keys)

        update = factored("update", tuned, aligned)
        direction = None if weak is None else factored("direction", aligned, weak)
        return jax.device_get(Parts(update, direction, aligned))


_update_layers = jax.jit(update_layers, static_argnames="basis")


def _shapes(file: AdapterFile | None) -> Adapter | None:
    return None if file is None else file.shapes()


def _rank(file: AdapterFile, module: str) -> int:
    return file.shapes().factors[module]["a"].shape[1]


class LiftedFile:
    """One of the three adapters of a lift, with the interface of an ``AdapterFile``.

    Args:
      lift: what they are made from.
      kind: ``"weak"``, ``"aligned"`` or ``"finetuned"``.
    """

    def __init__(self, lift: Lift, kind: str):
        assert kind in Lifted._fields
        self.lift, self._kind = lift, kind
        own: AdapterFile | None = getattr(lift, kind)
        self._file = own or lift.finetuned
        self.path, self.layout = self._file.path, self._file.layout
        self.notes = [] if own is None else list(own.notes)
        self.carried = self._file.carried.without() if own is None else own.carried

    def notes_of_source(self) -> list[str]:
        """Return the notes on an adapter that is read and not written; none of one that is made."""
        return [] if getattr(self.lift, self._kind) is None else self._file.notes_of_source()

    def check_layers(self, num_layers: int, modules: Sequence[str] = MODULES) -> None:
        """See ``AdapterFile.check_layers``."""
        self._file.check_layers(num_layers, modules)

    def shapes(self) -> Adapter:
        """Return the lifted adapter with ``jax.ShapeDtypeStruct`` leaves."""
        return self.lift.shapes()

    def factors(self, module: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Read and lift the factors of one module name; see ``AdapterFile.factors``."""
        return self.lift.factors(self._kind, module, rows)

    def load(self) -> Adapter:
        """Read and lift the whole adapter."""
        shapes = self.shapes()
        return dataclasses.replace(shapes, factors={m: self.factors(m) for m in module_names(shapes.factors)})
