"""From masks to the decision: compare layer by layer, choose over all modules."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import describe_range
from nlsr_jax.nlsr.amplify import amplify_checked
from nlsr_jax.nlsr.change import correction_size, share_taken
from nlsr_jax.nlsr.realign import choose
from nlsr_jax.nlsr.settings import ModuleChoice
from nlsr_jax.nlsr.similarity import masked_cosine
from nlsr_jax.pipeline.advice import SMALLER
from nlsr_jax.pipeline.chunks import ANY, Chunk, ahead, chunks, join, nameless
from nlsr_jax.pipeline.identification import Masks, count_kept
from nlsr_jax.pipeline.lifting import lift_of
from nlsr_jax.pipeline.lineage import Lineage, lineage_part, unpack_lineage
from nlsr_jax.pipeline.reference import Pieces, Reference, nameless_pieces
from nlsr_jax.pipeline.sources import Sources


class Decision(NamedTuple):
    """Which modules are repaired and what decided it, as host arrays; see ``nlsr_jax.realign``.

    Attributes:
      similarity, probability, pruned, zero_norm: ``{module: [L]}``.
      kept: ``{module: {"a": [L], "b": [L]}}``, how many entries the masks keep.
      change: ``{module: [L]}``, ‖B'A' − B A‖ / ‖B A‖ of the fine-tuned adapter; 0 where it is left alone, empty
        where it was not measured.
      taken: ``{module: [L]}``, the share of the direction's norm that is transplanted, likewise.
    """

    similarity: PerModule
    probability: PerModule
    pruned: PerModule
    zero_norm: PerModule
    kept: dict[str, dict[str, np.ndarray]]
    change: PerModule
    taken: PerModule


class Comparison(NamedTuple):
    """The fine-tuned adapter beside the reference, as host arrays.

    Attributes:
      similarity, zero_norm: ``{module: [L]}``; see ``nlsr_jax.realign``.
      kept: ``{module: {"a": [L], "b": [L]}}``, how many entries the masks keep.
      lineage: beside the aligned adapter.
      change, taken: what a repair of every module changes; see ``Decision``.
    """

    similarity: PerModule
    zero_norm: PerModule
    kept: dict[str, dict[str, np.ndarray]]
    lineage: Lineage
    change: PerModule
    taken: PerModule


@functools.partial(jax.jit, static_argnames=("space", "rank"))
def _compare(pieces: Pieces, finetuned: Adapter, masks, beta, *, space, rank):
    return masked_cosine(amplify_checked(*pieces, beta=beta, space=space, rank=rank), finetuned, masks)


@functools.partial(jax.jit, static_argnames=("space", "rank", "slot", "strength"))
def _measure(pieces: Pieces, finetuned: Adapter, masks, beta, *, space, rank, slot, strength):
    reference = amplify_checked(*pieces, beta=beta, space=space, rank=rank)
    found = {"change": correction_size(finetuned, reference, masks, strength)[ANY]}
    if slot is not None:
        found["taken"] = share_taken(reference, masks, slot)[ANY]
    return found


def compare(
    masks: Masks,
    reference: Reference,
    sources: Sources,
    known: Lineage | None = None,
    *,
    strength: float | None = None,
) -> Comparison:
    """Compare the fine-tuned adapter with the reference and, unless that is known, with the aligned one.

    Args:
      masks: the masks.
      reference: the reference adapter.
      sources: the open adapter files; one layer of each is in memory at a time.
      known: the lineage, where it has been measured.
      strength: of a repair in factors, to measure too how much it changes; None to measure nothing of it.
    """
    lift = lift_of(sources)
    beta = np.float32(reference.beta)

    def read(chunk: Chunk):
        return reference.read(chunk), sources.read_finetuned(chunk), masks.piece(chunk)

    def slot(module: str) -> tuple[int, int] | None:
        found = None if lift is None else lift.slots(module)
        return found.of_direction if found and found.direction and reference.beta else None

    def measured(chunk: Chunk, inputs: tuple, options: dict[str, Any]) -> dict[str, Any]:
        if strength is None:
            return {}
        return _measure(*inputs, **options, slot=slot(chunk.module), strength=strength)

    def part(chunk: Chunk, pieces: Pieces, finetuned: Adapter, mask) -> dict[str, Any]:
        inputs = nameless_pieces(pieces), nameless(finetuned), {ANY: mask}, beta
        options = {"space": reference.space, "rank": reference.rank}
        similarity, zero_norm = _compare(*inputs, **options)
        return {
            "similarity": similarity[ANY],
            "zero_norm": zero_norm[ANY],
            "kept": count_kept(mask),
            "lineage": lineage_part(chunk.module, pieces.aligned, finetuned) if known is None else {},
            "measured": measured(chunk, inputs, options),
        }

    shapes = sources.target.shapes()
    found = join({chunk.module: part(chunk, *parts)} for chunk, parts in ahead(chunks(shapes), read))
    return Comparison(
        similarity={m: tree["similarity"] for m, tree in found.items()},
        zero_norm={m: tree["zero_norm"] for m, tree in found.items()},
        kept={m: tree["kept"] for m, tree in found.items()},
        lineage=known or unpack_lineage({m: tree["lineage"] for m, tree in found.items()}),
        **{
            name: {m: tree["measured"][name] for m, tree in found.items() if name in tree["measured"]}
            for name in ("change", "taken")
        },
    )


def decide(
    key: jax.Array, settings: ModuleChoice, found: Comparison, reference: Reference, sources: Sources
) -> Decision:
    """Choose the modules to repair.

    Args:
      key: PRNG key of the draw.
      settings: of the choice of modules.
      found: from ``compare``.
      reference: the reference adapter, for messages.
      sources: the open adapter files, for the layers' numbers.

    Raises:
      InputError: a similarity that is no number.
    """
    _check_similarity(found.similarity, reference, sources)
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
    change, taken = (_of_repaired(measured, pruned) for measured in (found.change, found.taken))
    return Decision(found.similarity, probability, pruned, found.zero_norm, found.kept, change, taken)


def _of_repaired(measured: PerModule, pruned: PerModule) -> PerModule:
    """Return what was measured, 0 for modules that are left alone, as host arrays."""
    return jax.tree.map(lambda values, alone: np.where(alone, 0.0, values), measured, pruned) if measured else {}


def _check_similarity(similarity: PerModule, reference: Reference, sources: Sources) -> None:
    """Refuse similarities that are no numbers: what was read is finite, what amplification makes may not be."""
    shapes = sources.target.shapes()
    for module in module_names(similarity):
        bad = np.flatnonzero(~np.isfinite(similarity[module]))
        if bad.size:
            dtype = sources.aligned.shapes().factors[module]["a"].dtype
            raise InputError(
                f"layer {layer_indices(shapes, module)[bad[0]]} {module}: the similarity is no number: with beta "
                f"{reference.beta:g} the reference goes beyond {describe_range(dtype)}; {SMALLER}"
            )
