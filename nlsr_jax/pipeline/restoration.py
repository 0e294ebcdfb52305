"""From the decision to the written adapter: correct layer by layer into a file."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import AdapterWriter
from nlsr_jax.nlsr.amplify import amplify_checked
from nlsr_jax.nlsr.correction import correct_checked
from nlsr_jax.pipeline.chunks import ANY, Chunk, ahead, behind, nameless, one_layer
from nlsr_jax.pipeline.decision import Decision
from nlsr_jax.pipeline.identification import Masks
from nlsr_jax.pipeline.reference import Pieces, Reference, nameless_pieces
from nlsr_jax.pipeline.sources import Sources, read_piece
from nlsr_jax.pipeline.trimming import Trimmed


class Restoration(NamedTuple):
    """What the written adapter is made of.

    Attributes:
      sources: the open adapter files.
      reference: the reference adapter.
      masks: the masks.
      key: of the draw.
      decision: from ``decide``.
      space, strength: of the correction.
      trimmed: what is kept of the rank axis of a lifted adapter; None for all of it.
    """

    sources: Sources
    reference: Reference
    masks: Masks
    key: jax.Array
    decision: Decision
    space: str
    strength: float
    trimmed: Trimmed | None = None

    def shapes(self) -> Adapter:
        """Return the shapes of the written adapter."""
        if self.trimmed is not None:
            return self.trimmed.shapes()
        shapes = self.sources.target.shapes()
        return _widened(shapes) if self.space == "product" else shapes

    def is_left_alone(self, chunk: Chunk) -> bool:
        """Whether no layer of a chunk is repaired."""
        return bool(self.decision.pruned[chunk.module][chunk.rows].all())

    def read(self, chunk: Chunk) -> tuple[Adapter, Pieces | None, Any]:
        """Read the fine-tuned layers of a chunk, and the reference and masks of those that are repaired."""
        if self.is_left_alone(chunk):
            return read_piece(self.sources.target, chunk), None, None
        return self.sources.read_finetuned(chunk), self.reference.read(chunk), self.masks.piece(chunk)

    def corrected(self, chunk: Chunk, finetuned: Adapter, pieces: Pieces, mask: Any) -> tuple[Mapping, Mapping]:
        """Correct the layers of a chunk; returns their factors, and what underflows of the reference."""
        corrected, gone = _restore(
            nameless_pieces(pieces),
            nameless(finetuned),
            {ANY: mask},
            {ANY: self.decision.pruned[chunk.module][chunk.rows]},
            np.float32(self.reference.beta),
            amplification_space=self.reference.space,
            rank=self.reference.rank,
            space=self.space,
            strength=self.strength,
        )
        return corrected.factors[ANY], gone

    def arranged(self, chunk: Chunk, factors: Mapping[str, Any], *, alone: bool) -> Mapping[str, Any]:
        """Return factors with the rank axis of the written adapter; ``alone`` says that they are not repaired."""
        if self.trimmed is not None:
            return self.trimmed.factors(chunk, factors)
        return _padded(factors) if alone and self.space == "product" else factors


def write_restored(folder: pathlib.Path, made: Restoration) -> tuple[dict[str, str], list[str]]:
    """Write the realigned adapter: repaired layers corrected, all others as they are in the fine-tuned file.

    Args:
      folder: a folder that exists.
      made: what the adapter is made of.

    Returns:
      The SHA-256 of the weights by file name, and notes of what the fine-tuned adapter's type has lost.

    Raises:
      InputError: entries of the reference that the type of the fine-tuned adapter cannot hold, or a factor of which
        nothing is left in it.
    """
    target, lost = made.sources.target, _Lost(made.sources.target.shapes(), made.reference.beta)
    said = f"the reference {made.reference.made}"
    if made.strength != 1:
        said = f"the repair has strength {made.strength:g}, and {said}"
    with AdapterWriter(made.shapes(), folder, layout=target.layout, made=said) as writer, behind() as later:
        for chunk, (finetuned, pieces, mask) in ahead(itertools.starmap(one_layer, writer.order()), made.read):
            alone = pieces is None
            factors = finetuned.factors[chunk.module]
            if pieces is not None:
                factors, gone = made.corrected(chunk, finetuned, pieces, mask)
            later(writer.write, chunk.module, made.arranged(chunk, factors, alone=alone), chunk.rows)
            if pieces is not None:
                later(lost.add, chunk, gone)
    return writer.digests(), lost.notes()


@functools.partial(jax.jit, static_argnames=("amplification_space", "rank", "space", "strength"))
def _restore(
    pieces: Pieces, finetuned: Adapter, masks, pruned, beta, *, amplification_space, rank, space, strength
):
    reference = amplify_checked(*pieces, beta=beta, space=amplification_space, rank=rank)
    corrected = correct_checked(finetuned, reference, masks, pruned, space=space, strength=strength)

    def gone(e, t, m, new):
        """How many entries of the reference become 0 in the type that is written, and whether nothing is left."""
        if strength != 1 or jnp.finfo(e.dtype).smallest_subnormal >= jnp.finfo(t.dtype).smallest_subnormal:
            return None
        zero = m & (e != 0) & (e.astype(t.dtype) == 0)
        return jnp.count_nonzero(zero), jnp.any(zero) & ~jnp.any(new != 0)

    trees = (reference.factors[ANY], finetuned.factors[ANY], masks[ANY], corrected.factors[ANY])
    return corrected, {factor: gone(*(tree[factor] for tree in trees)) for factor in ("a", "b")}


class _Lost:
    """Counts the entries that underflow in the type of the fine-tuned adapter."""

    def __init__(self, shapes: Adapter, beta: float):
        self._shapes, self._beta, self._counts = shapes, beta, dict[str, int]()

    def add(self, chunk: Chunk, gone: Mapping[str, tuple | None]) -> None:
        """Take the counts of one repaired layer.

        Raises:
          InputError: a factor of which nothing is left.
        """
        layer = layer_indices(self._shapes, chunk.module)[chunk.rows][0]
        for factor, found in gone.items():
            if found is None:
                continue
            count, everything = (int(value) for value in found)
            dtype = self._shapes.factors[chunk.module][factor].dtype
            if everything:
                raise InputError(
                    f"adapter: layer {layer} {chunk.module}.{factor} would be zero throughout: the {count} entries "
                    f"of the reference, made with beta {self._beta:g}, are below what {dtype} holds; give the "
                    "fine-tuned adapter in bfloat16 or float32"
                )
            self._counts[str(dtype)] = self._counts.get(str(dtype), 0) + count

    def notes(self) -> list[str]:
        """Say how many entries are 0 in the output that are not in the reference."""
        return [
            f"{count} entries of the reference are too small for {dtype} and are 0 in the output"
            for dtype, count in self._counts.items()
            if count
        ]


def _padded(leaf: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same factors with their rank doubled by zeros: what product space leaves of untouched modules."""
    rank = leaf["a"].shape[1]
    return {
        "a": np.pad(leaf["a"], ((0, 0), (0, rank), (0, 0))),
        "b": np.pad(leaf["b"], ((0, 0), (0, 0), (0, rank))),
    }


def _widened(shapes: Adapter) -> Adapter:
    """The shapes with twice the rank."""

    def wide(leaf, axis):
        shape = tuple(2 * size if i == axis else size for i, size in enumerate(leaf.shape))
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    factors = {m: {"a": wide(leaf["a"], 1), "b": wide(leaf["b"], 2)} for m, leaf in shapes.factors.items()}
    return dataclasses.replace(shapes, factors=factors)
