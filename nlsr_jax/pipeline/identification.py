"""From files to masks: read the adapters, make the reference, find the safety-critical entries."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.formats.mask_files import load_masks
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.formats.record import Digests
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.identify import NEEDS_STATISTICS, identify
from nlsr_jax.nlsr.similarity import check_masks
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.stages import Stages
from nlsr_jax.random_streams import stream


class Masks(NamedTuple):
    """Masks, where they came from, and the counts of the calibration data."""

    masks: Any
    method: str
    calibration: dict[str, int] | None


def adapter_files(path: str) -> list[pathlib.Path]:
    """Return the files of a PEFT directory that decide what it means."""
    return [pathlib.Path(path) / name for name in ("adapter_config.json", "adapter_model.safetensors")]


def read_adapter(name: str, path: str, digests: Digests) -> Adapter:
    """Load one PEFT directory and start to digest it."""
    adapter = load_adapter(path)
    digests.add(name, path, adapter_files(path))
    return adapter


def zero_factors(adapter: Adapter) -> list[str]:
    """Name the factors that are zero throughout, such as ``"layer 0 q_proj.b"``."""
    names = []
    for module in module_names(adapter.factors):
        for factor, leaf in adapter.factors[module].items():
            flat = np.asarray(leaf).reshape(leaf.shape[0], -1)
            zero = [i for i in range(flat.shape[0]) if not flat[i].any()]
            names += [f"layer {layer_indices(adapter, module)[i]} {module}.{factor}" for i in zero]
    return names


def make_reference(aligned: Adapter, weak: Adapter | None, settings: Settings) -> Adapter:
    """Amplify module by module and let go of the inputs on the way: one extra module in memory."""
    if weak is not None:
        names = ("aligned", "weak")
        check_same_structure(aligned, weak, names, rank=settings.amplification_space == "factors")
    factors = {}
    for module in module_names(aligned.factors):
        one = _take(aligned, module)
        factors[module] = amplify(
            one,
            None if weak is None else _take(weak, module),
            beta=settings.beta,
            space=settings.amplification_space,
            rank=settings.rank,
        ).factors[module]
    return dataclasses.replace(aligned, factors=factors)


def _take(adapter: Adapter, module: str) -> Adapter:
    return dataclasses.replace(adapter, factors={module: adapter.factors.pop(module)})


def obtain_masks(
    settings: Settings, reference: Adapter, key: jax.Array, digests: Digests, stages: Stages
) -> Masks:
    """Read the masks that were given, or identify them.

    Raises:
      InputError: masks, base or calibration data that cannot be used.
    """
    if settings.masks is not None:
        with stages("read masks"):
            masks, metadata = load_masks(settings.masks)
            check_masks(reference, masks, settings.masks)
            path = pathlib.Path(settings.masks)
            digests.add("masks", settings.masks, [path / MASKS_FILE if path.is_dir() else path])
        return Masks(masks, metadata.get("method", "given"), None)
    statistics = gradients = counts = None
    if settings.needs_base:
        statistics, gradients, counts = _calibrate(settings, reference, digests, stages)
    with stages("identify"):
        masks = identify(
            reference,
            statistics,
            sparsity=settings.sparsity,
            method=settings.method,
            granularity=settings.granularity,
            key=stream(key, "identification"),
            gradients=gradients,
        )
        jax.block_until_ready(masks)
    return Masks(masks, settings.method, counts)


def _calibrate(settings, reference, digests, stages):
    """Run the reference model over the calibration data; returns statistics, gradients and counts."""
    from nlsr_jax.data.calibration import batches, load_calibration, load_tokenizer
    from nlsr_jax.models import collect_gradients, collect_statistics, load_model

    with stages("read calibration data"):
        preference = settings.method == "preference_snip"
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


def count_kept(masks) -> dict[str, dict[str, PerModule]]:
    """Return how many entries each mask keeps: ``{module: {"a": [L], "b": [L]}}`` int."""
    return {
        module: {name: np.asarray(leaf).sum(axis=(1, 2)) for name, leaf in leaves.items()}
        for module, leaves in masks.items()
    }


def check_reference(reference: Adapter, finetuned: Adapter) -> None:
    """Check that the reference has kept the rank of the fine-tuned adapter.

    Raises:
      InputError: amplification in product space has raised the rank.
    """
    for module in module_names(finetuned.factors):
        rank = finetuned.factors[module]["a"].shape[1]
        found = reference.factors[module]["a"].shape[1]
        if found != rank:
            raise InputError(
                f"the reference has rank {found} in {module}, the fine-tuned adapter {rank}; "
                f"give --rank {rank} to truncate the reference"
            )
