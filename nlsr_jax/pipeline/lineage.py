"""How the fine-tuned adapter lies to the aligned one, measured layer by layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter, PerModule
from nlsr_jax.nlsr.lineage import lineage, product_lineage
from nlsr_jax.pipeline.chunks import ANY, Chunk, ahead, chunks, join, nameless
from nlsr_jax.pipeline.sources import AdapterSource, Sources, read_piece


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
"""Of an adapter without an aligned one."""


def measure_products(aligned: AdapterSource, finetuned: AdapterSource) -> Lineage:
    """Measure the products alone, of adapters that need no common rank axis.

    Args:
      aligned, finetuned: the adapters as they were read; their ranks and scalings may differ.
    """

    def read(chunk: Chunk):
        return read_piece(aligned, chunk), read_piece(finetuned, chunk)

    read_ahead = ahead(chunks(finetuned.shapes()), read)
    figures = join(
        {chunk.module: product_lineage(*(nameless(one) for one in pair))[ANY]} for chunk, pair in read_ahead
    )
    return Lineage(figures, {}, {})


def measure_lineage(sources: Sources) -> Lineage:
    """Measure the lineage of every module, and find the factors that are zero throughout."""

    def read(chunk: Chunk):
        return read_piece(sources.aligned, chunk), sources.read_finetuned(chunk)

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
