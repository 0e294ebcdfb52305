"""From evidence to masks on disk: the matrices are scored one at a time.

One threshold for the whole model needs all scores: they go through a scratch file, from which the exact cut is
found, so that no more than one matrix and one gradient is in memory.
"""

import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.formats.weight_masks import WeightMaskFile, WeightMaskWriter
from nlsr_jax.nlsr.identify import module_stream
from nlsr_jax.nlsr.masks import host_mask_factor, kept_count
from nlsr_jax.nlsr.selection import find_cut, keep
from nlsr_jax.nlsr.settings import Identification
from nlsr_jax.nlsr.weights import Evidence, score_matrix
from nlsr_jax.pipeline.weights_evidence import Pieces
from nlsr_jax.pipeline.weights_sources import ModelSources

_BLOCK = 2**22
"""Scores that are in memory at a time where the cut is searched."""
_SCRATCH = "scores"

Score = Callable[[str, int, Evidence], np.ndarray]


class FoundMasks(NamedTuple):
    """Masks on disk.

    Attributes:
      file: reads them.
      method: the score that made them.
      digest: SHA-256 of the file.
    """

    file: WeightMaskFile
    method: str
    digest: str


def write_masks(
    path: pathlib.Path, sources: ModelSources, settings: Identification, key: jax.Array, pieces: Pieces
) -> FoundMasks:
    """Score all matrices and write the masks of the highest scores.

    Args:
      path: the file to write; the scratch file is beside it while this runs.
      sources: the models.
      settings: of the identification.
      key: PRNG key, for ``random``.
      pieces: the evidence of every matrix.
    """

    def score(module: str, layer: int, evidence: Evidence) -> np.ndarray:
        return score_matrix(
            settings.method,
            sources.read(module, layer),
            evidence,
            beta=sources.beta,
            sparsity=settings.sparsity,
            key=jax.random.fold_in(module_stream(key, module), layer),
        )

    metadata: dict[str, Any] = {"method": settings.method, "sparsity": settings.sparsity}
    with WeightMaskWriter(path, sources.finetuned, metadata) as writer:
        for module, layer, mask in _masks(path.with_name(_SCRATCH), sources, settings, pieces, score):
            writer.write_mask(module, layer, mask)
    return FoundMasks(WeightMaskFile(path, sources.finetuned), settings.method, writer.sha256())


def _masks(scratch, sources, settings: Identification, pieces: Pieces, score: Score):
    if settings.granularity == "adapter":
        yield from _with_one_threshold(scratch, sources, settings, pieces, score)
        return
    for module, layer, evidence in pieces:
        scores = score(module, layer, evidence)
        mask = host_mask_factor(scores, settings.sparsity, settings.granularity)
        yield module, layer, _without_zeros(mask, scores, settings.method)


def _with_one_threshold(scratch: pathlib.Path, sources, settings: Identification, pieces: Pieces, score: Score):
    """Yield the masks layer by layer; ties are kept in this order."""
    sizes = sources.sizes()
    total = sum(sizes.values())
    ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
    try:
        scores = np.memmap(scratch, np.float32, "w+", shape=(total,))
        for module, layer, evidence in pieces:
            end = ends[module, layer]
            scores[end - sizes[module, layer] : end] = score(module, layer, evidence).reshape(-1)
        cut = find_cut(lambda: _blocks(scores), kept_count(total, settings.sparsity))
        passed = 0
        for (module, layer), end in ends.items():
            shape = sources.finetuned.shape(module, layer)
            one = np.array(scores[end - sizes[module, layer] : end]).reshape(shape)
            mask, passed = keep(one, cut, passed)
            yield module, layer, _without_zeros(mask, one, settings.method)
    finally:
        scratch.unlink(missing_ok=True)


def _blocks(scores: np.ndarray) -> Iterator[np.ndarray]:
    return (scores[first : first + _BLOCK] for first in range(0, len(scores), _BLOCK))


def _without_zeros(mask: np.ndarray, scores: np.ndarray, method: str) -> np.ndarray:
    """Drop entries without a gain, as ``identify`` does."""
    return mask & (scores > 0) if method == "gain" else mask
