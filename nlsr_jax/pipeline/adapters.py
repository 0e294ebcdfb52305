"""The adapters of a run, read from their files a few layers of one module name at a time.

No adapter is ever in memory as a whole: factors are read when their turn comes and let go of again.
"""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import (
    Adapter,
    PerModule,
    check_same_structure,
    layer_indices,
    module_names,
)
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import AdapterFile, open_adapter
from nlsr_jax.formats.record import Digests
from nlsr_jax.formats.safetensors_files import empty_aligned
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.lineage import lineage
from nlsr_jax.pipeline.settings import Settings

CHUNK_BYTES = 2**24
"""Bytes of one adapter's factors that are worked on at a time."""


class Sources(NamedTuple):
    """The open adapter files of a run; ``weak`` may be absent, ``finetuned`` only where it is not used."""

    aligned: AdapterFile
    weak: AdapterFile | None = None
    finetuned: AdapterFile | None = None

    @property
    def target(self) -> AdapterFile:
        """The fine-tuned adapter's file."""
        assert self.finetuned is not None
        return self.finetuned


def open_sources(settings: Settings, digests: Digests) -> Sources:
    """Open the adapters, check that their structures fit each other, and start to digest them.

    Raises:
      InputError: an adapter that cannot be used, or that does not fit the others.
    """
    found: dict[str, AdapterFile] = {}
    for name in ("aligned", "weak", "finetuned"):
        path = getattr(settings, name)
        if path:
            found[name] = open_adapter(path)
            files = ("adapter_config.json", "adapter_model.safetensors")
            digests.add(name, path, [pathlib.Path(path) / file for file in files])
    aligned = found["aligned"].shapes()
    for name, rank in (("finetuned", True), ("weak", settings.amplification_space == "factors")):
        if name in found:
            names = (f"aligned ({settings.aligned})", f"{name} ({getattr(settings, name)})")
            check_same_structure(aligned, found[name].shapes(), names, rank=rank)
    return Sources(**found)


class Chunk(NamedTuple):
    """Some layers of one module name: ``rows`` of its leading axis."""

    module: str
    rows: slice


def chunks(shapes: Adapter) -> Iterator[Chunk]:
    """Cut an adapter into pieces of at most ``CHUNK_BYTES`` (but no less than one layer).

    Args:
      shapes: the adapter, or its shapes.
    """
    for module in module_names(shapes.factors):
        leaves = jax.tree.leaves(shapes.factors[module])
        count = leaves[0].shape[0]
        per_layer = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves) // count
        step = max(1, CHUNK_BYTES // per_layer)
        for start in range(0, count, step):
            yield Chunk(module, slice(start, min(start + step, count)))


def _piece(shapes: Adapter, chunk: Chunk, factors) -> Adapter:
    """An adapter of the layers of one chunk; its layers are numbered from 0, so that programs are shared."""
    scaling = shapes.scaling[chunk.module] if isinstance(shapes.scaling, Mapping) else shapes.scaling
    if isinstance(scaling, tuple):
        return Adapter({chunk.module: factors}, {chunk.module: scaling[chunk.rows]})
    return Adapter({chunk.module: factors}, scaling)


def read_piece(file: AdapterFile, chunk: Chunk) -> Adapter:
    """Read the layers of one chunk as an adapter of their own."""
    return _piece(file.shapes(), chunk, file.factors(chunk.module, chunk.rows))


class Pieces(NamedTuple):
    """The layers of one chunk of the aligned and, where there is one, the weak adapter."""

    aligned: Adapter
    weak: Adapter | None


def read_pieces(sources: Sources, chunk: Chunk) -> Pieces:
    """Read the layers of one chunk of both adapters that make the reference."""
    weak = None if sources.weak is None else read_piece(sources.weak, chunk)
    return Pieces(read_piece(sources.aligned, chunk), weak)


def amplify_pieces(pieces: Pieces, settings: Settings) -> Adapter:
    """Amplify one chunk: a piece of the reference adapter."""
    return amplify(*pieces, beta=settings.beta, space=settings.amplification_space, rank=settings.rank)


def ahead(chunks: Iterable[Chunk], read: Callable[[Chunk], Any]) -> Iterator[tuple[Chunk, Any]]:
    """Yield every chunk with what ``read`` gives for it, the next one being read meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending: tuple[Chunk, concurrent.futures.Future] | None = None
        for chunk in chunks:
            following = chunk, pool.submit(read, chunk)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = following
        if pending is not None:
            yield pending[0], pending[1].result()


def whole_reference(sources: Sources, settings: Settings) -> Adapter:
    """Make the whole reference adapter, piece by piece, as host arrays."""
    shapes = reference_shapes(sources, settings)
    factors = {
        module: {f: empty_aligned(leaf.shape, leaf.dtype) for f, leaf in leaves.items()}
        for module, leaves in shapes.factors.items()
    }
    for chunk, pieces in ahead(chunks(sources.aligned.shapes()), lambda chunk: read_pieces(sources, chunk)):
        piece = amplify_pieces(pieces, settings)
        for f, leaf in piece.factors[chunk.module].items():
            factors[chunk.module][f][chunk.rows] = leaf
    return dataclasses.replace(shapes, factors=factors)


def reference_shapes(sources: Sources, settings: Settings) -> Adapter:
    """Return the reference with ``jax.ShapeDtypeStruct`` leaves; no data is read."""
    weak = None if sources.weak is None else sources.weak.shapes()
    return jax.eval_shape(
        lambda aligned, weak: amplify(
            aligned, weak, beta=settings.beta, space=settings.amplification_space, rank=settings.rank
        ),
        sources.aligned.shapes(),
        weak,
    )


def check_reference(sources: Sources, settings: Settings) -> None:
    """Check that the reference keeps the rank of the fine-tuned adapter.

    Raises:
      InputError: amplification in product space raises the rank.
    """
    if sources.finetuned is None:
        return
    reference, finetuned = reference_shapes(sources, settings), sources.finetuned.shapes()
    for module in module_names(finetuned.factors):
        rank = finetuned.factors[module]["a"].shape[1]
        found = reference.factors[module]["a"].shape[1]
        if found != rank:
            raise InputError(
                f"the reference has rank {found} in {module}, the fine-tuned adapter {rank}; "
                f"give --rank {rank} to truncate the reference"
            )


def check_lineage(sources: Sources) -> tuple[dict[str, PerModule], dict[str, list[str]]]:
    """Measure the lineage of every module, and find the factors that are zero throughout.

    Args:
      sources: the open files.

    Returns:
      ``({module: {"a": [L], "b": [L]}} cosines, {adapter name: names of zero factors})``.
    """
    cosines: dict[str, PerModule] = {}
    zeros: dict[str, list[str]] = {"aligned": [], "finetuned": []}
    shapes = sources.target.shapes()

    def read(chunk: Chunk):
        return {"aligned": read_piece(sources.aligned, chunk), "finetuned": read_piece(sources.target, chunk)}

    for chunk, pair in ahead(chunks(shapes), read):
        extend(cosines, jax.device_get(lineage(*pair.values())))
        layers = layer_indices(shapes, chunk.module)[chunk.rows]
        for name, piece in pair.items():
            zeros[name] += _zero_factors(piece, chunk.module, layers)
    return cosines, zeros


def extend(collected: dict, values) -> None:
    """Append per-layer results of one chunk to those of the chunks before, leaf by leaf, in place."""
    for module, new in values.items():
        old = collected.get(module)
        collected[module] = new if old is None else jax.tree.map(lambda x, y: np.concatenate([x, y]), old, new)


def _zero_factors(piece: Adapter, module: str, layers: tuple[int, ...]) -> list[str]:
    """Name the factors of a piece that are zero throughout, such as ``"layer 0 q_proj.b"``."""
    return [
        f"layer {layer} {module}.{factor}"
        for factor, leaf in piece.factors[module].items()
        for layer, one in zip(layers, leaf, strict=True)
        if not one.flat[0] and not np.any(one)
    ]
