"""Compare layer by layer, choose over all modules, then correct layer by layer into a file."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import describe_range
from nlsr_jax.formats.peft import AdapterWriter
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct_checked
from nlsr_jax.nlsr.realign import choose
from nlsr_jax.nlsr.similarity import masked_cosine
from nlsr_jax.pipeline.adapters import (
    ANY,
    Chunk,
    Lineage,
    Pieces,
    Sources,
    ahead,
    behind,
    chunks,
    join,
    lineage_part,
    nameless,
    nameless_pieces,
    one_layer,
    read_finetuned,
    read_piece,
    read_pieces,
    unpack_lineage,
)
from nlsr_jax.pipeline.advice import SMALLER
from nlsr_jax.pipeline.identification import count_kept, mask_piece
from nlsr_jax.pipeline.lifting import Trimmed
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


class Comparison(NamedTuple):
    """The fine-tuned adapter beside the reference, as host arrays.

    Attributes:
      similarity, zero_norm: ``{module: [L]}``; see ``nlsr_jax.realign``.
      kept: ``{module: {"a": [L], "b": [L]}}``, how many entries the masks keep.
      lineage: beside the aligned adapter.
    """

    similarity: PerModule
    zero_norm: PerModule
    kept: dict[str, dict[str, np.ndarray]]
    lineage: Lineage


@functools.partial(jax.jit, static_argnames=("space", "rank"))
def _compare(pieces: Pieces, finetuned: Adapter, masks, beta, *, space, rank):
    return masked_cosine(amplify(*pieces, beta=beta, space=space, rank=rank), finetuned, masks)


def compare(
    masks: Mapping[str, Any], sources: Sources, settings: Settings, known: Lineage | None = None
) -> Comparison:
    """Compare the fine-tuned adapter with the reference and, unless that is known, with the aligned one.

    Args:
      masks: mapping of masks.
      sources: the open adapter files; one layer of each is in memory at a time.
      settings: the settings.
      known: the lineage, where it has been measured.
    """
    beta = np.float32(settings.beta)

    def read(chunk: Chunk):
        return read_pieces(sources, chunk), read_finetuned(sources, chunk, settings), mask_piece(masks, chunk)

    def part(chunk: Chunk, pieces: Pieces, finetuned: Adapter, mask) -> dict[str, Any]:
        similarity, zero_norm = _compare(
            nameless_pieces(pieces),
            nameless(finetuned),
            {ANY: mask},
            beta,
            space=settings.amplification_space,
            rank=settings.rank,
        )
        return {
            "similarity": similarity[ANY],
            "zero_norm": zero_norm[ANY],
            "kept": count_kept(mask),
            "lineage": lineage_part(chunk.module, pieces.aligned, finetuned) if known is None else {},
        }

    shapes = sources.target.shapes()
    found = join({chunk.module: part(chunk, *parts)} for chunk, parts in ahead(chunks(shapes), read))
    return Comparison(
        similarity={m: tree["similarity"] for m, tree in found.items()},
        zero_norm={m: tree["zero_norm"] for m, tree in found.items()},
        kept={m: tree["kept"] for m, tree in found.items()},
        lineage=known or unpack_lineage({m: tree["lineage"] for m, tree in found.items()}),
    )


def decide(key: jax.Array, found: Comparison, sources: Sources, settings: Settings) -> Decision:
    """Choose the modules to repair.

    Args:
      key: PRNG key of the draw.
      found: from ``compare``.
      sources: the open adapter files, for the layers' numbers.
      settings: the settings.

    Raises:
      InputError: a similarity that is no number.
    """
    _check_similarity(found.similarity, sources, settings)
    pruned, probability = choose(
        key,
        sources.target.shapes(),
        found.similarity,
        base_probability=settings.base_probability,
        increment=settings.increment,
        rule=settings.rule,
        tau=settings.tau,
        share=settings.share,
        layers=settings.layers,
    )
    pruned, probability = jax.device_get((pruned, probability))
    return Decision(found.similarity, probability, pruned, found.zero_norm, found.kept)


def _check_similarity(similarity: PerModule, sources: Sources, settings: Settings) -> None:
    """Refuse similarities that are no numbers: what was read is finite, what amplification makes may not be."""
    shapes = sources.target.shapes()
    for module in module_names(similarity):
        bad = np.flatnonzero(~np.isfinite(similarity[module]))
        if bad.size:
            dtype = sources.aligned.shapes().factors[module]["a"].dtype
            raise InputError(
                f"layer {layer_indices(shapes, module)[bad[0]]} {module}: the similarity is no number: with beta "
                f"{settings.beta:g} the reference goes beyond {describe_range(dtype)}; {SMALLER}"
            )


def write_restored(
    folder: pathlib.Path,
    decision: Decision,
    masks: Mapping[str, Any],
    sources: Sources,
    settings: Settings,
    trimmed: Trimmed | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Write the realigned adapter: repaired layers corrected, all others as they are in the fine-tuned file.

    Args:
      folder: a folder that exists.
      decision: from ``decide``.
      masks, sources, settings: as for ``compare``.
      trimmed: what is kept of the rank axis of a lifted adapter; None for all of it.

    Returns:
      The SHA-256 of the weights by file name, and notes of what the fine-tuned adapter's type has lost.

    Raises:
      InputError: entries of the reference that the type of the fine-tuned adapter cannot hold, or a factor of which
        nothing is left in it.
    """
    product, beta = settings.space == "product", np.float32(settings.beta)
    shapes = sources.target.shapes()

    def left_alone(chunk: Chunk) -> bool:
        return bool(decision.pruned[chunk.module][chunk.rows].all())

    def read(chunk: Chunk):
        if left_alone(chunk):
            return read_piece(sources.target, chunk), None, None
        finetuned = read_finetuned(sources, chunk, settings)
        return finetuned, read_pieces(sources, chunk), mask_piece(masks, chunk)

    def arranged(module: str, factors: Mapping[str, Any], *, alone: bool = False) -> Mapping[str, Any]:
        if trimmed is not None:
            return trimmed.factors(module, factors)
        return _padded(factors) if product and alone else factors

    written = trimmed.shapes() if trimmed is not None else _widened(shapes) if product else shapes
    lost = _Lost(shapes, settings)
    made = f"the reference is made with beta {settings.beta:g}; {SMALLER}"
    with AdapterWriter(written, folder, layout=sources.target.layout, made=made) as writer, behind() as later:
        for chunk, (finetuned, pieces, mask) in ahead(itertools.starmap(one_layer, writer.order()), read):
            if pieces is None:
                alone = arranged(chunk.module, finetuned.factors[chunk.module], alone=True)
                later(writer.write, chunk.module, alone, chunk.rows)
                continue
            corrected, gone = _restore(
                nameless_pieces(pieces),
                nameless(finetuned),
                {ANY: mask},
                {ANY: decision.pruned[chunk.module][chunk.rows]},
                beta,
                amplification_space=settings.amplification_space,
                rank=settings.rank,
                space=settings.space,
            )
            later(writer.write, chunk.module, arranged(chunk.module, corrected.factors[ANY]), chunk.rows)
            later(lost.add, chunk, gone)
    return writer.digests(), lost.notes()


@functools.partial(jax.jit, static_argnames=("amplification_space", "rank", "space"))
def _restore(pieces: Pieces, finetuned: Adapter, masks, pruned, beta, *, amplification_space, rank, space):
    reference = amplify(*pieces, beta=beta, space=amplification_space, rank=rank)
    corrected = correct_checked(finetuned, reference, masks, pruned, space=space)

    def gone(e, t, m, new):
        """How many entries of the reference become 0 in the type that is written, and whether nothing is left."""
        if jnp.finfo(e.dtype).smallest_subnormal >= jnp.finfo(t.dtype).smallest_subnormal:
            return None
        zero = m & (e != 0) & (e.astype(t.dtype) == 0)
        return jnp.count_nonzero(zero), jnp.any(zero) & ~jnp.any(new != 0)

    trees = (reference.factors[ANY], finetuned.factors[ANY], masks[ANY], corrected.factors[ANY])
    return corrected, {factor: gone(*(tree[factor] for tree in trees)) for factor in ("a", "b")}


class _Lost:
    """Counts the entries that underflow in the type of the fine-tuned adapter."""

    def __init__(self, shapes: Adapter, settings: Settings):
        self._shapes, self._beta, self._counts = shapes, settings.beta, dict[str, int]()

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
