"""Compare a few layers at a time, choose over all modules, then correct a few layers at a time into a file."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule
from nlsr_jax.formats.peft import AdapterWriter
from nlsr_jax.nlsr.correction import correct_checked
from nlsr_jax.nlsr.realign import choose
from nlsr_jax.nlsr.similarity import masked_cosine
from nlsr_jax.pipeline.adapters import (
    Chunk,
    Sources,
    ahead,
    amplify_pieces,
    chunks,
    extend,
    read_piece,
    read_pieces,
)
from nlsr_jax.pipeline.identification import count_kept, mask_piece
from nlsr_jax.pipeline.settings import Settings


class Decision(NamedTuple):
    """Which modules are repaired and what decided it, as host arrays; see ``nlsr_jax.realign``.

    Attributes:
      similarity, probability, pruned, zero_norm: ``{module: [L]}``.
      kept: ``{module: {"a": [L], "b": [L]}}``, how many entries the masks keep.
    """

    similarity: PerModule
    probability: PerModule
    pruned: PerModule
    zero_norm: PerModule
    kept: dict[str, dict[str, np.ndarray]]


def decide(key: jax.Array, masks: Mapping[str, Any], sources: Sources, settings: Settings) -> Decision:
    """Compare the fine-tuned adapter with the reference and choose the modules to repair.

    Args:
      key: PRNG key of the draw.
      masks: mapping of masks.
      sources: the open adapter files; a few layers of each are in memory at a time.
      settings: the settings.
    """
    similarity: PerModule = {}
    zero_norm: PerModule = {}
    kept: dict[str, dict[str, np.ndarray]] = {}
    shapes = sources.target.shapes()

    def read(chunk: Chunk):
        return read_pieces(sources, chunk), read_piece(sources.target, chunk), mask_piece(masks, chunk)

    for chunk, (pieces, finetuned, mask) in ahead(chunks(shapes), read):
        values, zeros = masked_cosine(amplify_pieces(pieces, settings), finetuned, {chunk.module: mask})
        extend(similarity, jax.device_get(values))
        extend(zero_norm, jax.device_get(zeros))
        extend(kept, {chunk.module: count_kept(mask)})
    pruned, probability = choose(
        key,
        shapes,
        similarity,
        base_probability=settings.base_probability,
        increment=settings.increment,
        rule=settings.rule,
        tau=settings.tau,
        share=settings.share,
        layers=settings.layers,
    )
    pruned, probability = jax.device_get((pruned, probability))
    return Decision(similarity, probability, pruned, zero_norm, kept)


def write_restored(
    folder: pathlib.Path, decision: Decision, masks: Mapping[str, Any], sources: Sources, settings: Settings
) -> None:
    """Write the realigned adapter: repaired layers corrected, all others as they are in the fine-tuned file.

    Args:
      folder: a folder that exists.
      decision: from ``decide``.
      masks, sources, settings: as there.
    """
    product = settings.space == "product"
    shapes = sources.target.shapes()

    def left_alone(chunk: Chunk) -> bool:
        return bool(decision.pruned[chunk.module][chunk.rows].all())

    def read(chunk: Chunk):
        finetuned = read_piece(sources.target, chunk)
        if left_alone(chunk):
            return finetuned, None, None
        return finetuned, read_pieces(sources, chunk), mask_piece(masks, chunk)

    with AdapterWriter(_widened(shapes) if product else shapes, folder, layout=sources.target.layout) as writer:
        for chunk, (finetuned, pieces, mask) in ahead(chunks(shapes), read):
            if pieces is None:
                factors = finetuned.factors[chunk.module]
                writer.write(chunk.module, _padded(factors) if product else factors, chunk.rows)
                continue
            corrected = correct_checked(
                finetuned,
                amplify_pieces(pieces, settings),
                {chunk.module: mask},
                {chunk.module: decision.pruned[chunk.module][chunk.rows]},
                space=settings.space,
            )
            writer.write(chunk.module, corrected.factors[chunk.module], chunk.rows)


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
