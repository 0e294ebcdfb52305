"""The reference adapter of a run: amplified from the aligned and the weak one, a few layers at a time."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.numbers import check_finite
from nlsr_jax.files.safetensors_files import empty_aligned
from nlsr_jax.nlsr.amplify import amplify_checked
from nlsr_jax.nlsr.settings import Amplification
from nlsr_jax.pipeline.advice import SMALLER
from nlsr_jax.pipeline.chunks import ANY, Chunk, ahead, chunks, named, nameless
from nlsr_jax.pipeline.sources import Sources, read_piece


class Pieces(NamedTuple):
    """The layers of one chunk of the aligned and, where there is one, the weak adapter."""

    aligned: Adapter
    weak: Adapter | None


class Reference:
    """What the fine-tuned adapter is compared with and repaired from; nothing is read before it is asked for.

    Args:
      sources: the open adapter files.
      settings: of the amplification.

    Attributes:
      sources: the argument.
      beta, space, rank: of the amplification.
    """

    def __init__(self, sources: Sources, settings: Amplification):
        self.sources = sources
        self.beta, self.space, self.rank = settings.beta, settings.amplification_space, settings.rank

    @property
    def _options(self) -> dict[str, Any]:
        return {"beta": self.beta, "space": self.space, "rank": self.rank}

    @property
    def made(self) -> str:
        """How it is made, for messages of entries beyond what a type holds."""
        return f"is made with beta {self.beta:g}; {SMALLER}"

    def shapes(self) -> Adapter:
        """Return the reference with ``jax.ShapeDtypeStruct`` leaves; no data is read."""
        weak = None if self.sources.weak is None else self.sources.weak.shapes()
        aligned = self.sources.aligned.shapes()
        return jax.eval_shape(lambda *adapters: amplify_checked(*adapters, **self._options), aligned, weak)

    def check_rank(self) -> None:
        """Check that the reference keeps the rank of the fine-tuned adapter.

        Raises:
          InputError: amplification in product space raises the rank.
        """
        reference, finetuned = self.shapes(), self.sources.target.shapes()
        for module in module_names(finetuned.factors):
            rank = finetuned.factors[module]["a"].shape[1]
            found = reference.factors[module]["a"].shape[1]
            if found != rank:
                raise InputError(
                    f"the reference has rank {found} in {module}, the fine-tuned adapter {rank}; "
                    f"give {argument('rank')} {rank} to truncate the reference"
                )

    def read(self, chunk: Chunk) -> Pieces:
        """Read what the layers of one chunk are made of."""
        return read_pieces(self.sources, chunk)

    def amplified(self, chunk: Chunk, pieces: Pieces | None = None) -> Adapter:
        """Make the layers of one chunk.

        Args:
          chunk: the layers.
          pieces: what ``read`` gives for it, where that has been called.

        Raises:
          InputError: an entry beyond what its type holds.
        """
        pieces = pieces or self.read(chunk)
        made = jax.device_get(amplify_checked(*nameless_pieces(pieces), **self._options))
        layers = layer_indices(self.sources.aligned.shapes(), chunk.module)[chunk.rows]
        for factor, leaf in made.factors[ANY].items():
            for layer, value in zip(layers, leaf, strict=True):
                what = f"the reference's layer {layer} {chunk.module}.{factor}"
                check_finite(value, what, f"it {self.made}")
        return named(made, chunk.module)

    def by_module(self) -> Iterator[Adapter]:
        """Make the reference of one module name after the other."""
        shapes = self.sources.aligned.shapes()
        for module in module_names(shapes.factors):
            yield self.amplified(Chunk(module, slice(0, shapes.factors[module]["a"].shape[0])))

    def whole(self) -> Adapter:
        """Make the whole reference, piece by piece, as host arrays."""
        shapes = self.shapes()
        factors = {
            module: {f: empty_aligned(leaf.shape, leaf.dtype) for f, leaf in leaves.items()}
            for module, leaves in shapes.factors.items()
        }
        for chunk, pieces in ahead(chunks(self.sources.aligned.shapes()), self.read):
            for f, leaf in self.amplified(chunk, pieces).factors[chunk.module].items():
                factors[chunk.module][f][chunk.rows] = leaf
        return dataclasses.replace(shapes, factors=factors)


def read_pieces(sources: Sources, chunk: Chunk) -> Pieces:
    """Read the layers of one chunk of both adapters that make the reference."""
    weak = None if sources.weak is None else read_piece(sources.weak, chunk)
    return Pieces(read_piece(sources.aligned, chunk), weak)


def nameless_pieces(pieces: Pieces) -> Pieces:
    """``nameless`` of both."""
    return Pieces(nameless(pieces.aligned), None if pieces.weak is None else nameless(pieces.weak))
