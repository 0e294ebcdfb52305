"""Compare and correct a few layers at a time, with the choice over all modules between the two."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule
from nlsr_jax.nlsr.correction import correct_checked
from nlsr_jax.nlsr.realign import choose
from nlsr_jax.nlsr.similarity import masked_cosine
from nlsr_jax.pipeline.adapters import Sources, ahead, amplify_pieces, chunks, extend, piece_of, read_pieces
from nlsr_jax.pipeline.identification import count_kept, mask_piece
from nlsr_jax.pipeline.settings import Settings


class Restored(NamedTuple):
    """The realigned adapter and what decided it, as host arrays; see ``nlsr_jax.realign``.

    Attributes:
      adapter: the realigned adapter.
      similarity, probability, pruned, zero_norm: ``{module: [L]}``.
      kept: ``{module: {"a": [L], "b": [L]}}``, how many entries the masks keep.
      sizes: ``{module: {"a": int, "b": int}}``, entries of one layer's factors.
    """

    adapter: Adapter
    similarity: PerModule
    probability: PerModule
    pruned: PerModule
    zero_norm: PerModule
    kept: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, dict[str, int]]


def restore(
    key: jax.Array, finetuned: Adapter, masks: Mapping[str, Any], sources: Sources, settings: Settings
) -> Restored:
    """Do what ``nlsr_jax.realign`` does with no more than a few layers of the reference in memory.

    Args:
      key: PRNG key of the draw.
      finetuned: W_t in memory; in factor space its arrays are corrected in place.
      masks: mapping of masks.
      sources: files of the aligned and the weak adapter.
      settings: the settings.

    Returns:
      A ``Restored``.
    """
    similarity, zero_norm, kept = _compare(finetuned, masks, sources, settings)
    pruned, probability = choose(
        key,
        finetuned,
        similarity,
        base_probability=settings.base_probability,
        increment=settings.increment,
        rule=settings.rule,
        tau=settings.tau,
        share=settings.share,
        layers=settings.layers,
    )
    pruned, probability = jax.device_get((pruned, probability))
    sizes = {m: {f: leaf[0].size for f, leaf in fs.items()} for m, fs in finetuned.factors.items()}
    adapter = _correct(finetuned, masks, pruned, sources, settings)
    return Restored(adapter, similarity, probability, pruned, zero_norm, kept, sizes)


def _compare(finetuned, masks, sources, settings):
    similarity: PerModule = {}
    zero_norm: PerModule = {}
    kept: dict[str, dict[str, np.ndarray]] = {}
    for chunk, (pieces, mask) in ahead(chunks(finetuned), _reader(masks, sources)):
        reference = amplify_pieces(pieces, settings)
        values, zeros = masked_cosine(reference, piece_of(finetuned, chunk), {chunk.module: mask})
        extend(similarity, jax.device_get(values))
        extend(zero_norm, jax.device_get(zeros))
        extend(kept, {chunk.module: count_kept(mask)})
    return similarity, zero_norm, kept


def _correct(finetuned, masks, pruned, sources, settings):
    """Correct the repaired layers; in factor space in place, in product space into wider arrays."""
    adapter = finetuned if settings.space == "factors" else _widened(finetuned)
    repaired = [chunk for chunk in chunks(finetuned) if not pruned[chunk.module][chunk.rows].all()]
    for chunk, (pieces, mask) in ahead(repaired, _reader(masks, sources)):
        corrected = correct_checked(
            piece_of(finetuned, chunk),
            amplify_pieces(pieces, settings),
            {chunk.module: mask},
            {chunk.module: pruned[chunk.module][chunk.rows]},
            space=settings.space,
        )
        for f, leaf in corrected.factors[chunk.module].items():
            adapter.factors[chunk.module][f][chunk.rows] = leaf
    return adapter


def _reader(masks, sources):
    """What one chunk needs from files: the pieces of the reference, and the masks."""
    return lambda chunk: (read_pieces(sources, chunk), mask_piece(masks, chunk))


def _widened(adapter: Adapter) -> Adapter:
    """The same adapter with its rank doubled by zeros: what product space leaves of untouched modules."""
    factors = {}
    for module, leaf in adapter.factors.items():
        rank = leaf["a"].shape[1]
        factors[module] = {
            "a": np.pad(leaf["a"], ((0, 0), (0, rank), (0, 0))),
            "b": np.pad(leaf["b"], ((0, 0), (0, 0), (0, rank))),
        }
    return dataclasses.replace(adapter, factors=factors)
