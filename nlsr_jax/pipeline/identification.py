"""From files to masks: take the masks that were given, or find the safety-critical entries."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, module_names
from nlsr_jax.formats.mask_files import MaskFile
from nlsr_jax.formats.record import Digests
from nlsr_jax.nlsr.identify import NEEDS_FINETUNED, NEEDS_STATISTICS, identify
from nlsr_jax.nlsr.similarity import check_masks
from nlsr_jax.pipeline.adapters import (
    Chunk,
    Sources,
    amplify_pieces,
    read_pieces,
    reference_shapes,
    whole_reference,
)
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.stages import Stages
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


def obtain_masks(settings: Settings, sources: Sources, key: jax.Array, digests: Digests, stages: Stages) -> Masks:
    """Open the masks that were given, or identify them.

    Raises:
      InputError: masks, base or calibration data that cannot be used.
    """
    if settings.masks is not None:
        file = MaskFile(settings.masks)
        check_masks(reference_shapes(sources, settings), file.shapes(), str(file.path))
        digests.add("masks", settings.masks, [file.path])
        return Masks(file, file.metadata.get("method", "given"), None)
    key = stream(key, "identification")
    if not settings.needs_base:
        return Masks(_identify_by_module(settings, sources, key, stages), settings.method, None)
    with stages("amplify"):
        reference = jax.block_until_ready(whole_reference(sources, settings))
    finetuned = sources.target.load() if settings.method in NEEDS_FINETUNED else None
    statistics, gradients, counts = _calibrate(settings, reference, finetuned, digests, stages)
    with stages("identify"):
        masks = _identify(settings, reference, key, statistics, gradients, finetuned)
    return Masks(masks, settings.method, counts)


def _identify(settings, reference, key, statistics=None, gradients=None, finetuned=None):
    masks = identify(
        reference,
        statistics,
        sparsity=settings.sparsity,
        method=settings.method,
        granularity=settings.granularity,
        key=key,
        gradients=gradients,
        finetuned=finetuned,
    )
    return jax.block_until_ready(masks)


def _identify_by_module(settings, sources, key, stages):
    """Scores that need no data: one module name of the reference in memory at a time."""
    if settings.granularity == "adapter":  # one threshold needs all scores
        with stages("identify"):
            return _identify(settings, whole_reference(sources, settings), key)
    shapes = sources.aligned.shapes()
    masks: dict[str, Any] = {}
    with stages("identify"):
        for module in module_names(shapes.factors):
            every = Chunk(module, slice(0, shapes.factors[module]["a"].shape[0]))
            reference = amplify_pieces(read_pieces(sources, every), settings)
            masks |= _identify(settings, reference, key)
    return masks


def _calibrate(settings: Settings, reference: Adapter, finetuned: Adapter | None, digests: Digests, stages: Stages):
    """Run the reference model over the calibration data; returns statistics, gradients and counts."""
    from nlsr_jax.data.calibration import batches, load_calibration, load_tokenizer
    from nlsr_jax.models import collect_gradients, collect_loss_gradient, collect_statistics, load_model

    preference = settings.method == "preference_snip"
    assert settings.base is not None
    assert settings.calibration is not None
    with stages("read calibration data"):
        data = load_calibration(
            settings.calibration,
            load_tokenizer(settings.base),
            max_length=settings.max_length,
            template=settings.template,
            preference=preference,
        )
        path = pathlib.Path(settings.calibration)
        digests.add("calibration", settings.calibration, [path] if path.is_file() else [])
        _say_counts(data.counts, stages)
    with stages("read base model"):
        model, params = load_model(settings.base, dtype=jnp.dtype(settings.dtype))
        digests.add("base", settings.base, _base_files(settings.base))
    all_batches = list(batches(data.rows, settings.batch_size, settings.max_length))
    tracked = stages.track(all_batches, "calibration", len(all_batches))
    with stages("calibrate"):
        if settings.method in NEEDS_STATISTICS:
            statistics = collect_statistics(model, params, reference, tracked)
            return jax.block_until_ready(statistics), None, data.counts
        if finetuned is not None:
            gradients = collect_loss_gradient(model, params, finetuned, tracked)
            return None, jax.block_until_ready(gradients), data.counts
        objective = "preference_snip" if preference else "snip"
        gradients = collect_gradients(model, params, reference, tracked, objective=objective)
        return None, jax.block_until_ready(gradients), data.counts


def _say_counts(counts, stages):
    stages.say(
        f"calibration: {counts['used']} of {counts['rows']} rows used, "
        f"{counts['response_positions']} response positions; "
        f"{counts['skipped_long_prompt']} prompts longer than --max_length skipped, "
        f"{counts['cut_responses']} responses cut"
    )


def _base_files(base: str) -> list[pathlib.Path]:
    folder = pathlib.Path(base)
    if not folder.is_dir():
        return []
    kept = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return [file for file in sorted(folder.iterdir()) if file.name in kept or file.suffix == ".safetensors"]


def mask_piece(masks: Mapping[str, Any], chunk: Chunk) -> dict[str, Any]:
    """Return the masks of one chunk, read from their file where they are in one."""
    if isinstance(masks, MaskFile):
        return masks.read_layers(chunk.module, chunk.rows)
    return {f: leaf[chunk.rows] for f, leaf in masks[chunk.module].items()}


def count_kept(mask) -> dict[str, np.ndarray]:
    """Return how many entries of each layer the masks of one module name keep: ``{"a": [L], "b": [L]}``."""
    return {f: np.array([np.count_nonzero(one) for one in np.asarray(leaf)]) for f, leaf in mask.items()}
