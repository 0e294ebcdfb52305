"""From evidence to masks: take the masks that were given, or find the safety-critical entries."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.large_file import copy_digested
from nlsr_jax.formats.mask_files import MaskFile, write_masks
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.settings import Identification
from nlsr_jax.nlsr.similarity import check_masks
from nlsr_jax.pipeline.chunks import Chunk
from nlsr_jax.pipeline.evidence import CalibrationData, Evidence, gather_evidence
from nlsr_jax.pipeline.reference import Reference
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import SourceSettings
from nlsr_jax.random_streams import stream


class Masks(NamedTuple):
    """Masks, where they came from, and the counts of the calibration data.

    Attributes:
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool; a mapping that may read a module from its
        file each time it is asked for.
      method: the score that made them.
      calibration: what was read, used, skipped and cut; None without calibration data.
    """

    masks: Mapping[str, Any]
    method: str
    calibration: dict[str, int] | None

    def piece(self, chunk: Chunk) -> dict[str, Any]:
        """Return the masks of one chunk, read from their file where they are in one."""
        if isinstance(self.masks, MaskFile):
            return self.masks.read_layers(chunk.module, chunk.rows)
        return {f: leaf[chunk.rows] for f, leaf in self.masks[chunk.module].items()}


def obtain_masks(settings: SourceSettings, reference: Reference, data: CalibrationData, run: Run) -> Masks:
    """Open the masks that were given, or find them; see ``open_masks`` and ``find_masks``."""
    if settings.masks is not None:
        return open_masks(settings.masks, reference, run)
    return find_masks(settings, reference, data, run)


def open_masks(path: str, reference: Reference, run: Run) -> Masks:
    """Open masks that were given.

    Args:
      path: of the file or its folder.
      reference: what they have to fit.
      run: the context.

    Raises:
      InputError: masks that cannot be used.
    """
    file = MaskFile(path)
    check_masks(reference.shapes(), file.shapes(), str(file.path))
    run.digests.add("masks", path, [file.path])
    return Masks(file, file.metadata.get("method", "given"), None)


def find_masks(settings: Identification, reference: Reference, data: CalibrationData, run: Run) -> Masks:
    """Identify the safety-critical entries of the reference.

    Args:
      settings: of the identification.
      reference: the reference adapter.
      data: calibration rows and base; read where the method needs them.
      run: the context.

    Raises:
      InputError: base or calibration data that cannot be used.
    """
    key = stream(run.key, "identification")
    if not settings.needs_data:
        with run.stages("identify"):
            return Masks(_identify_by_module(settings, reference, key), settings.method, None)
    with run.stages("amplify"):
        whole = jax.block_until_ready(data.whole(reference))
    evidence = gather_evidence(data, whole, reference.beta)
    with run.stages("identify"):
        masks = _identify(settings, whole, key, evidence, reference.sources.fixed)
    return Masks(masks, settings.method, data.rows.counts)


def _identify(
    settings: Identification, reference: Adapter, key: jax.Array, evidence: Evidence, fixed: Mapping[str, int]
):
    masks = identify(
        reference,
        evidence.statistics,
        sparsity=settings.sparsity,
        method=settings.method,
        granularity=settings.granularity,
        key=key,
        gradients=evidence.gradients,
        finetuned=evidence.finetuned,
        fixed={module: count for module, count in fixed.items() if module in reference.factors},
    )
    return jax.block_until_ready(masks)


def _identify_by_module(settings: Identification, reference: Reference, key: jax.Array) -> dict[str, Any]:
    """Scores that need no data: one module name of the reference in memory at a time."""
    masks: dict[str, Any] = {}
    whole = settings.granularity == "adapter"  # one threshold for the adapter needs all scores
    for part in [reference.whole()] if whole else reference.by_module():
        masks |= _identify(settings, part, key, Evidence(), reference.sources.fixed)
    return masks


def write_found(masks: Masks, path: pathlib.Path, shapes: Adapter, sparsity: float) -> str:
    """Write identified masks, or copy masks that were given.

    Args:
      masks: the masks.
      path: of the file.
      shapes: the adapter that they are of, for the numbers of its layers.
      sparsity: that they were identified with.

    Returns:
      The SHA-256 of the file.
    """
    if isinstance(masks.masks, MaskFile):
        return copy_digested(masks.masks.path, path)
    layers = {module: layer_indices(shapes, module) for module in module_names(shapes.factors)}
    metadata: dict[str, Any] = {"method": masks.method, "sparsity": sparsity}
    write_masks(masks.masks, path, layers=layers, metadata=metadata)
    return sha256(path)


def count_kept(mask: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return how many entries of each layer the masks of one module name keep: ``{"a": [L], "b": [L]}``."""
    return {f: np.array([np.count_nonzero(one) for one in np.asarray(leaf)]) for f, leaf in mask.items()}
