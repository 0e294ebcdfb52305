"""A run without an aligned adapter: the base is the aligned model, and the adapters of the run are lifted.

The lifted adapters are read as files are, a few layers at a time; see ``nlsr_jax.lift``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, module_names
from nlsr_jax.files.safetensors_files import empty_aligned
from nlsr_jax.formats.peft import AdapterFile, open_adapter
from nlsr_jax.modules import MODULES
from nlsr_jax.nlsr.direction import Direction
from nlsr_jax.nlsr.lift import Lifted, check_direction, direction_rows, lift_factors
from nlsr_jax.pipeline.evidence import base_files
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import SourceSettings
from nlsr_jax.pipeline.sources import AdapterSource, Sources


def open_lifted(settings: SourceSettings, run: Run) -> Sources:
    """Open the customer's adapter, factor the direction of the alignment where there is one, and lift.

    Args:
      settings: of a run without an aligned adapter.
      run: the context.

    Raises:
      InputError: an adapter or models that cannot be used.
    """
    assert settings.finetuned is not None
    file = open_adapter(settings.finetuned)
    run.digests.add("finetuned", settings.finetuned, [file.path / name for name in file.files])
    direction = None
    if settings.pretrained is not None:
        direction = _direction(settings, file.shapes(), run)
    weak, aligned, finetuned = (LiftedFile(file, direction, kind) for kind in Lifted._fields)
    return Sources(aligned=aligned, weak=weak, finetuned=finetuned)


def _direction(settings: SourceSettings, shapes: Adapter, run: Run) -> Direction:
    from nlsr_jax.architecture.fit import check_modules
    from nlsr_jax.formats.safety_direction import safety_direction

    assert settings.base is not None
    assert settings.pretrained is not None
    names = module_names(shapes.factors)
    check_modules(shapes, f"finetuned ({settings.finetuned})")
    rank = settings.direction_rank or max(shapes.factors[name]["a"].shape[1] for name in names)
    with run.stages("factor the direction"):
        found = safety_direction(settings.base, settings.pretrained, rank=rank, modules=names)
    run.digests.add("pretrained", settings.pretrained, base_files(settings.pretrained))
    if not settings.needs_base:
        run.digests.add("base", settings.base, base_files(settings.base))
    left = np.concatenate([np.asarray(values) for values in found.residual.values()])
    run.stages.say(
        f"direction: base - pretrained at rank {rank} leaves out {left.mean():.2%} of the norm in the mean of "
        f"{left.size} modules, {left.max():.2%} at most"
    )
    return found


def trim(file: AdapterSource, masks: Mapping[str, Any], pruned: Mapping[str, Any]) -> "Trimmed":
    """Return what the written adapter keeps of the rank axis.

    Args:
      file: the fine-tuned adapter of a lift.
      masks: ``{module: {"a": [L, r_V + r, k], "b": [L, d, r_V + r]}}`` bool.
      pruned: ``{module: [L]}`` bool, True = left alone.
    """
    assert isinstance(file, LiftedFile)
    names = module_names(file.shapes().factors)
    return Trimmed(file, {name: touched(masks[name], pruned[name], file.slot(name)) for name in names})


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
        self.residual: Mapping[str, Any] = {} if direction is None else direction.residual
        self._own = file.shapes()
        check_adapter(self._own, "finetuned")
        check_direction(self._own, self._direction)
        self.path, self.layout = file.path, file.layout
        written = kind == "finetuned"
        self.notes = list(file.notes) if written else []
        self.carried = file.carried if written else file.carried.without()

    def notes_of_source(self) -> list[str]:
        """Return no notes: the aligned and the weak adapter are made, not read."""
        return []

    def check_layers(self, num_layers: int, modules: Sequence[str] = MODULES) -> None:
        """See ``AdapterFile.check_layers``."""
        self._file.check_layers(num_layers, modules)

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
      file: the fine-tuned adapter of a lift.
      kept: ``{module: [r_V + r]}`` bool.
    """

    def __init__(self, file: LiftedFile, kept: Mapping[str, np.ndarray]):
        self._index = {module: np.flatnonzero(keep) for module, keep in kept.items()}
        self._file, self._shapes = file, file.shapes()

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the lift: ranks by module, and how much of V its rank leaves out."""
        ranks = {
            module: {
                "own": leaf["a"].shape[1] - self._file.slot(module),
                "direction": self._file.slot(module),
                "written": int(self._index[module].size),
            }
            for module, leaf in self._shapes.factors.items()
        }
        residual = self._file.residual
        left = {m: [float(value) for value in np.asarray(residual[m])] for m in ranks if m in residual}
        return {"ranks": ranks, "residual": left}

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
