"""What the written adapter keeps of a lifted adapter's rank axis, and how it is compressed to a wanted rank."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, module_names, truncate_measured
from nlsr_jax.files.safetensors_files import empty_aligned
from nlsr_jax.pipeline.chunks import Chunk
from nlsr_jax.pipeline.lifted import Lift


def trim(lift: Lift, masks: Mapping[str, Any], pruned: Mapping[str, Any], max_rank: int | None = None) -> "Trimmed":
    """Return what the written adapter keeps of the rank axis.

    Args:
      lift: what the adapters were lifted from.
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.
      pruned: ``{module: [L]}`` bool, True = left alone.
      max_rank: compress to this rank; None for no compression.
    """
    kept = {}
    for module in module_names(lift.shapes().factors):
        slots = lift.slots(module)
        idle = (0, 0) if lift.is_shared else slots.of_direction
        kept[module] = touched(masks[module], pruned[module], idle)
    return Trimmed(lift, kept, max_rank)


class Trimmed:
    """The rank axis of the written adapter: all that the fine-tuned adapter has, and of V what masks have touched.

    Args:
      lift: what the adapters were lifted from.
      kept: ``{module: [r]}`` bool.
      max_rank: modules above this rank are compressed to it; None for no compression.
    """

    def __init__(self, lift: Lift, kept: Mapping[str, np.ndarray], max_rank: int | None = None):
        self._index = {module: np.flatnonzero(keep) for module, keep in kept.items()}
        self._lift, self._whole, self._max_rank = lift, lift.shapes(), max_rank
        self._left = {m: np.zeros(leaf["a"].shape[0]) for m, leaf in self._whole.factors.items()}

    def _rank(self, module: str) -> int:
        size, leaf = int(self._index[module].size), self._whole.factors[module]
        if self._max_rank is None or size <= self._max_rank:
            return size
        return min(self._max_rank, leaf["a"].shape[2], leaf["b"].shape[1])

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the lift: basis, ranks by module, and how much of V its rank leaves out."""
        ranks = {}
        for module in self._whole.factors:
            slots = self._lift.slots(module)
            ranks[module] = {"own": slots.own, "direction": slots.direction, "written": self._rank(module)}
            if slots.aligned:
                ranks[module]["aligned"] = slots.aligned
        residual = self._lift.residual
        left = {m: [float(value) for value in np.asarray(residual[m])] for m in ranks if m in residual}
        return {"basis": self._lift.basis, "ranks": ranks, "residual": left}

    def describe_compression(self) -> dict[str, Any]:
        """Return the rank asked for and what is left out, by module and layer; nothing without compression.

        The residuals are known once every layer has been arranged.
        """
        if self._max_rank is None:
            return {}
        left = {module: [float(value) for value in values] for module, values in self._left.items()}
        return {"compression": {"rank": self._max_rank, "residual": left}}

    def shapes(self) -> Adapter:
        """Return the shapes of the written adapter."""

        def cut(module, factor, leaf):
            count, one, two = leaf.shape
            rank = self._rank(module)
            return jax.ShapeDtypeStruct((count, rank, two) if factor == "a" else (count, one, rank), leaf.dtype)

        factors = {m: {f: cut(m, f, leaf) for f, leaf in pair.items()} for m, pair in self._whole.factors.items()}
        return dataclasses.replace(self._whole, factors=factors)

    def factors(self, chunk: Chunk, leaf: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the factors ``{"a", "b"}`` of the layers of a chunk, cut to what is kept and compressed."""
        index = self._index[chunk.module]
        cut = {f: np.asarray(leaf[f]) for f in ("a", "b")}
        if index.size < leaf["a"].shape[1]:
            cut = {"a": _packed(cut["a"][:, index]), "b": _packed(cut["b"][:, :, index])}
        if self._rank(chunk.module) == index.size:
            return cut
        found, left = truncate_measured(Adapter({chunk.module: cut}), self._rank(chunk.module))
        self._left[chunk.module][chunk.rows] = np.asarray(left[chunk.module])
        return jax.device_get(found.factors[chunk.module])


def _packed(array: np.ndarray) -> np.ndarray:
    out = empty_aligned(array.shape, array.dtype)
    out[...] = array
    return out


def touched(mask: Mapping[str, np.ndarray], pruned: np.ndarray, idle: tuple[int, int]) -> np.ndarray:
    """Say which places of the rank axis of one module the written adapter needs.

    Args:
      mask: ``{"a": [L, r, k], "b": [L, d, r]}`` bool, of one module.
      pruned: ``[L]`` bool, True = left alone.
      idle: the first place, and the first behind, of a slot in which the fine-tuned adapter's B is zero.

    Returns:
      ``[r]`` bool: False for a place of the slot without a transplanted entry in any layer.
    """
    keep = np.array(np.asarray(mask["b"])[~np.asarray(pruned)].any(axis=(0, 1)))
    keep[: idle[0]] = keep[idle[1] :] = True
    return keep
