"""From files to files: identify safety-critical entries and write the masks with their record."""

import dataclasses
import math
import os

import jax
from jax.sharding import Mesh

from nlsr_jax.adapter import layer_indices, module_names
from nlsr_jax.files.output import check_free, whole_directory, write_text
from nlsr_jax.formats import record as records
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.formats.mask_files import write_masks
from nlsr_jax.parallel import is_first
from nlsr_jax.pipeline.adapters import check_base, open_sources, reference_shapes, source_notes
from nlsr_jax.pipeline.descent import check_weak, note_base_names
from nlsr_jax.pipeline.identification import CalibrationData, count_kept, obtain_masks
from nlsr_jax.pipeline.settings import Settings, check_settings, name_inputs, with_absolute_paths
from nlsr_jax.pipeline.stages import Stages
from nlsr_jax.random_streams import describe_key

FORMAT = "nlsr_jax.identification"
FILE = "identification.json"


def identify_files(
    settings: Settings,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    stages: Stages | None = None,
    mesh: Mesh | None = None,
) -> dict:
    """Identify the safety-critical entries of an aligned adapter on disk.

    Args:
      settings: inputs and settings; what concerns the fine-tuned adapter is not used.
      output: the folder to write: ``masks.safetensors`` and ``identification.json``. It appears whole
        or not at all.
      overwrite: replace an output of this project that exists.
      stages: where to report progress.
      mesh: lay the base over these devices; None for one. Of several processes, the first one writes.

    Returns:
      The record, as written to ``identification.json``.

    Raises:
      InputError: any input or setting that cannot be used, or an output that is, holds or lies in an input; nothing
        is written then.
    """
    stages = stages or Stages(show=False)
    check_settings(settings, realign=False)
    settings = with_absolute_paths(settings)
    inputs = name_inputs(settings)
    place = check_free(output, overwrite, inputs=inputs)
    digests = records.Digests()
    try:
        return _identify_files(settings, place, overwrite, inputs, stages, digests, mesh)
    finally:
        digests.close()


def _identify_files(settings, output, overwrite, inputs, stages, digests, mesh):
    key = jax.random.key(settings.seed)
    with stages("read adapters"):
        sources = open_sources(settings, digests)
        reference = reference_shapes(sources, settings)
        check_base(sources, settings)
    warnings = source_notes(sources) + note_base_names(settings, sources)
    with stages("check lineage"):
        check_weak(settings, sources, warnings)
    for warning in warnings:
        stages.say(f"note: {warning}")
    data = CalibrationData(settings, digests, stages, mesh, sources)
    found = obtain_masks(settings, sources, key, digests, stages, data)
    for note in data.notes:
        stages.say(f"note: {note}")
    warnings += data.notes
    record = {
        "format": FORMAT,
        "format_version": records.VERSION,
        "settings": dataclasses.asdict(settings),
        "key": {"seed": settings.seed, **describe_key(key)},
        "inputs": digests.result(),
        "outputs": {},
        "calibration": found.calibration,
        "modules": describe_counts(reference, found.masks),
        **({"warnings": warnings} if warnings else {}),
        "versions": records.versions(),
        "commit": records.commit(),
        "device": records.device(),
        "seconds": {},
    }
    layers = {m: layer_indices(reference, m) for m in reference.factors}
    metadata = {"method": found.method, "sparsity": settings.sparsity}
    if not is_first():
        return record
    with whole_directory(output, overwrite=overwrite, inputs=inputs) as folder:
        with stages("write"):
            write_masks(found.masks, folder / MASKS_FILE, layers=layers, metadata=metadata)
            record["outputs"] = records.digest_folder(folder)
        record["seconds"] = dict(stages.seconds)
        record["seal"] = records.seal(record)
        write_text(folder / FILE, records.dump(record))
    return record


def describe_counts(adapter, masks) -> list[dict]:
    """Return one entry per module, layer by layer, with the kept and total entries of both factors."""
    entries = []
    for module in module_names(adapter.factors):
        leaf, kept = adapter.factors[module], count_kept(masks[module])
        for i, layer in enumerate(layer_indices(adapter, module)):
            entry = {"layer": layer, "module": module}
            for factor in ("a", "b"):
                entry[f"kept_{factor}"] = int(kept[factor][i])
                entry[f"size_{factor}"] = math.prod(leaf[factor].shape[1:])
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry["layer"])
