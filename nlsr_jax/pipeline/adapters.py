"""The adapters of a run, read from their files one layer of one module name at a time.

No adapter is ever in memory as a whole: factors are read when their turn comes and let go of again.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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
from nlsr_jax.files.numbers import check_finite
from nlsr_jax.files.safetensors_files import empty_aligned
from nlsr_jax.formats.peft import AdapterFile, PeftLayout, open_adapter
from nlsr_jax.formats.peft_carried import Carried
from nlsr_jax.formats.record import Digests
from nlsr_jax.modules import MODULES
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.basis import common_basis
from nlsr_jax.nlsr.lineage import lineage
from nlsr_jax.pipeline.advice import FRESH_ADVICE, SMALLER
from nlsr_jax.pipeline.settings import Settings


class AdapterSource(Protocol):
    """What the pipeline asks of an adapter: an ``AdapterFile``, or one that is made from such files."""

    path: pathlib.Path
    layout: PeftLayout
    carried: Carried
    notes: list[str]

    def notes_of_source(self) -> list[str]: ...
    def check_layers(self, num_layers: int, modules: Sequence[str] = MODULES) -> None: ...
    def shapes(self) -> Adapter: ...
    def factors(self, module: str, rows: slice = ...) -> dict[str, np.ndarray]: ...
    def load(self) -> Adapter: ...


class Sources(NamedTuple):
    """The open adapter files of a run; ``weak`` may be absent, ``finetuned`` only where it is not used."""

    aligned: AdapterSource
    weak: AdapterSource | None = None
    finetuned: AdapterSource | None = None

    @property
    def target(self) -> AdapterSource:
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
            digests.add(name, path, [pathlib.Path(path) / file for file in found[name].files])
    aligned = found["aligned"].shapes()
    for name, rank in (("finetuned", True), ("weak", settings.amplification_space == "factors")):
        if name in found:
            names = (f"aligned ({settings.aligned})", f"{name} ({getattr(settings, name)})")
            try:
                check_same_structure(aligned, found[name].shapes(), names, rank=rank)
            except InputError as error:
                raise InputError(f"{error}. {FRESH_ADVICE}" if name == "finetuned" else str(error)) from None
    return Sources(**found)


def source_notes(sources: Sources) -> list[str]:
    """Return what a user should know of the adapters; what the fine-tuned one carries alone is written."""
    notes = []
    for source in sources:
        if source is not None:
            notes += source.notes if source is sources.finetuned else source.notes_of_source()
    return notes


def check_base(sources: Sources, settings: Settings) -> None:
    """Check, before anything costly, that the base can run with the adapters; nothing where none is needed.

    Raises:
      InputError: an adapter of modules, layers or shapes that the base does not have.
    """
    if not settings.needs_base:
        return
    from nlsr_jax.architecture.fit import check_adapter_fits, check_modules
    from nlsr_jax.formats.carried_fit import check_carried_fits
    from nlsr_jax.formats.hugging_face import read_config, resolve

    assert settings.base is not None
    given = [(name, getattr(sources, name)) for name in sources._fields if getattr(settings, name)]
    names = {name: f"{name} ({getattr(settings, name)})" for name, _ in given}
    for name, file in given:
        check_modules(file.shapes(), names[name])
    config = read_config(resolve(settings.base))
    for name, file in given:
        check_adapter_fits(file.shapes(), config, names[name])
        file.check_layers(config.num_layers, tuple(config.modules()))
        check_carried_fits(file.carried, config)


class Chunk(NamedTuple):
    """Some layers of one module name: ``rows`` of its leading axis."""

    module: str
    rows: slice


def one_layer(module: str, row: int) -> Chunk:
    """Return the chunk of a single layer, ``row`` of the leading axis of ``module``."""
    return Chunk(module, slice(row, row + 1))


def chunks(shapes: Adapter) -> Iterator[Chunk]:
    """Cut an adapter into single layers.

    One at a time a matrix product runs fastest, little memory is taken, and module names of one size share
    their compiled programs.

    Args:
      shapes: the adapter, or its shapes.
    """
    for module in module_names(shapes.factors):
        for row in range(shapes.factors[module]["a"].shape[0]):
            yield one_layer(module, row)


def _piece(shapes: Adapter, chunk: Chunk, factors) -> Adapter:
    """An adapter of the layers of one chunk; its layers are numbered from 0, so that programs are shared."""
    scaling = shapes.scaling[chunk.module] if isinstance(shapes.scaling, Mapping) else shapes.scaling
    if isinstance(scaling, tuple):
        return Adapter({chunk.module: factors}, {chunk.module: scaling[chunk.rows]})
    return Adapter({chunk.module: factors}, scaling)


ANY = "q_proj"
"""The name of every piece that ``nameless`` returns, whichever module it is of."""


def nameless(piece: Adapter) -> Adapter:
    """Return a piece under one name for all modules: those of one shape then share their programs."""
    (factors,) = piece.factors.values()
    scaling = piece.scaling
    return Adapter({ANY: factors}, {ANY: next(iter(scaling.values()))} if isinstance(scaling, Mapping) else scaling)


def read_piece(file: AdapterSource, chunk: Chunk) -> Adapter:
    """Read the layers of one chunk as an adapter of their own."""
    return _piece(file.shapes(), chunk, file.factors(chunk.module, chunk.rows))


def read_finetuned(sources: Sources, chunk: Chunk, settings: Settings) -> Adapter:
    """Read the layers of one chunk of the fine-tuned adapter, in the basis of the settings."""
    finetuned = read_piece(sources.target, chunk)
    if settings.basis == "as_is":
        return finetuned
    turned = common_basis(finetuned, read_piece(sources.aligned, chunk), method=settings.basis)
    return jax.device_get(turned)


def whole_finetuned(sources: Sources, settings: Settings) -> Adapter:
    """Read the whole fine-tuned adapter, in the basis of the settings."""
    finetuned = sources.target.load()
    if settings.basis == "as_is":
        return finetuned
    return common_basis(finetuned, sources.aligned.load(), method=settings.basis)


class Lineage(NamedTuple):
    """How the fine-tuned factors and products lie to the aligned ones.

    Attributes:
      figures: ``{module: {"a": [L], "b": [L], …}}``; see ``nlsr_jax.lineage``.
      zero_aligned, zero_finetuned: ``{module: {"a": [L], "b": [L]}}``, whether the factor is zero throughout.
    """

    figures: dict[str, PerModule]
    zero_aligned: dict[str, PerModule]
    zero_finetuned: dict[str, PerModule]


NOT_MEASURED = Lineage({}, {}, {})
"""Of adapters that were lifted: they have one A because it was stacked for all of them."""


class Pieces(NamedTuple):
    """The layers of one chunk of the aligned and, where there is one, the weak adapter."""

    aligned: Adapter
    weak: Adapter | None


def read_pieces(sources: Sources, chunk: Chunk) -> Pieces:
    """Read the layers of one chunk of both adapters that make the reference."""
    weak = None if sources.weak is None else read_piece(sources.weak, chunk)
    return Pieces(read_piece(sources.aligned, chunk), weak)


def nameless_pieces(pieces: Pieces) -> Pieces:
    """``nameless`` of both."""
    return Pieces(nameless(pieces.aligned), None if pieces.weak is None else nameless(pieces.weak))


def amplify_pieces(pieces: Pieces, settings: Settings, layers: Sequence[int]) -> Adapter:
    """Amplify one chunk: a piece of the reference adapter.

    Args:
      pieces: of the adapters.
      settings: the settings.
      layers: the decoder layers of the chunk, for messages.

    Raises:
      InputError: an entry beyond what its type holds.
    """
    found = amplify(*pieces, beta=settings.beta, space=settings.amplification_space, rank=settings.rank)
    ((module, leaves),) = found.factors.items()
    for factor, leaf in leaves.items():
        for layer, value in zip(layers, leaf, strict=True):
            what = f"the reference's layer {layer} {module}.{factor}"
            check_finite(value, what, f"it is made with beta {settings.beta:g}; {SMALLER}")
    return found


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


@contextlib.contextmanager
def behind() -> Iterator[Callable[..., None]]:
    """Yield a function that calls another in a thread, one call after the other and at most two waiting.

    An error of a call is raised by the next one or at the end of the block, which waits for the last.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()

        def call(function: Callable, *arguments) -> None:
            waiting.append(pool.submit(function, *arguments))
            while len(waiting) > 2 or (waiting and waiting[0].done()):
                waiting.popleft().result()

        yield call
        while waiting:
            waiting.popleft().result()


def whole_reference(sources: Sources, settings: Settings) -> Adapter:
    """Make the whole reference adapter, piece by piece, as host arrays."""
    shapes = reference_shapes(sources, settings)
    factors = {
        module: {f: empty_aligned(leaf.shape, leaf.dtype) for f, leaf in leaves.items()}
        for module, leaves in shapes.factors.items()
    }
    for chunk, pieces in ahead(chunks(sources.aligned.shapes()), lambda chunk: read_pieces(sources, chunk)):
        layers = layer_indices(sources.aligned.shapes(), chunk.module)[chunk.rows]
        piece = amplify_pieces(pieces, settings, layers)
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


def measure_lineage(sources: Sources, settings: Settings) -> Lineage:
    """Measure the lineage of every module, and find the factors that are zero throughout.

    Args:
      sources: the open files.
      settings: the settings, of which the basis counts.
    """

    def read(chunk: Chunk):
        return read_piece(sources.aligned, chunk), read_finetuned(sources, chunk, settings)

    found = join(
        {chunk.module: lineage_part(chunk.module, aligned, finetuned)}
        for chunk, (aligned, finetuned) in ahead(chunks(sources.target.shapes()), read)
    )
    return unpack_lineage(found)


def lineage_part(module: str, aligned: Adapter, finetuned: Adapter) -> dict[str, Any]:
    """Measure the lineage of one chunk: the fields of ``Lineage`` by name."""
    return {
        "figures": lineage(nameless(aligned), nameless(finetuned))[ANY],
        "zero_aligned": _zero_factors(aligned.factors[module]),
        "zero_finetuned": _zero_factors(finetuned.factors[module]),
    }


def unpack_lineage(found: Mapping[str, Mapping[str, Any]]) -> Lineage:
    """Return ``join`` of ``lineage_part`` as a ``Lineage``."""
    fields: dict[str, Any] = {field: {m: tree[field] for m, tree in found.items()} for field in Lineage._fields}
    return Lineage(**fields)


def _zero_factors(factors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whether each layer's factor is zero throughout; the first entry mostly tells."""
    return {f: np.array([not one.flat[0] and not np.any(one) for one in leaf]) for f, leaf in factors.items()}


def join(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put per-layer results of chunks together, module by module, as host arrays.

    A chunk's results are fetched when those of the next are under way, so that the device need not wait.
    """
    grouped: dict[str, list] = {}
    for part in _lagging(parts):
        for module, values in jax.device_get(part).items():
            grouped.setdefault(module, []).append(values)
    return {m: jax.tree.map(lambda *values: np.concatenate(values), *found) for m, found in grouped.items()}


def _lagging(items: Iterable) -> Iterator:
    """Yield each item when the next has been made."""
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
