"""From files to files: identify safety-critical entries and write the masks with their record."""

import dataclasses
import os

from jax.sharding import Mesh

from nlsr_jax.files.output import check_free, whole_directory
from nlsr_jax.formats import record as records
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.parallel import is_first
from nlsr_jax.pipeline.base_names import note_base_names
from nlsr_jax.pipeline.checks import check_identification, check_stream
from nlsr_jax.pipeline.descent import check_weak
from nlsr_jax.pipeline.evidence import CalibrationData
from nlsr_jax.pipeline.hub_inputs import DATA, with_hub_folders
from nlsr_jax.pipeline.identification import obtain_masks, write_found
from nlsr_jax.pipeline.recording import IDENTIFICATION_FILE, record_identification, write_record
from nlsr_jax.pipeline.reference import Reference
from nlsr_jax.pipeline.run import Run, start
from nlsr_jax.pipeline.settings import Settings, name_inputs, with_absolute_paths
from nlsr_jax.pipeline.sources import Sources, check_base, open_sources, source_notes
from nlsr_jax.pipeline.templating import describe_template, settled_template
from nlsr_jax.progress import Stages


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
    check_identification(settings)
    check_stream(settings.stream, mesh)
    stages = stages or Stages(show=False)
    settings = with_absolute_paths(with_hub_folders(settings, ("aligned", "weak", "base", *DATA), stages))
    inputs = name_inputs(settings)
    place = check_free(output, overwrite, inputs=inputs)
    with start(settings.seed, stages, mesh=mesh, output=place) as run:
        sources = _open(settings, run)
        if settings.needs_base:
            named = settled_template(settings.template, settings.base, run, settings.calibration)
            settings = dataclasses.replace(settings, template=named)
        reference = Reference(sources, settings)
        data = CalibrationData(settings, sources, run)
        masks = obtain_masks(settings, reference, data, run)
        run.notes.add(data.notes)
        run.notes.say()
        told = describe_template(settings.template, data.tokenizer) if settings.needs_base else {}
        record = record_identification(settings, reference.shapes(), masks, told, run)
        if is_first():
            with whole_directory(place, overwrite=overwrite, inputs=inputs) as folder:
                with run.stages("write"):
                    write_found(masks, folder / MASKS_FILE, reference.shapes(), settings.sparsity)
                    record["outputs"] = records.digest_folder(folder)
                write_record(folder / IDENTIFICATION_FILE, record, run.stages)
    return record


def _open(settings: Settings, run: Run) -> Sources:
    """Open the adapters and check them, the base's config with them."""
    with run.stages("read adapters"):
        sources = open_sources(settings, run)
        check_base(sources, settings)
    run.notes.add(source_notes(sources) + note_base_names(settings, sources))
    with run.stages("check lineage"):
        check_weak(settings, sources, run)
    run.notes.say()
    return sources
