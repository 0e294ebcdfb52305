"""From files to files for fully fine-tuned models: realign in weights space and write model, record and report.

The way runs down as for adapters: settings and paths → models → evidence → masks → decision → written output.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.apart import Inputs
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.large_file import copy_digested
from nlsr_jax.files.output import check_free, whole_directory, write_text
from nlsr_jax.formats import record as records
from nlsr_jax.formats.companions import copy_companions
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.formats.model_matrices import is_model_folder
from nlsr_jax.formats.weight_masks import LAYOUT, WeightMaskFile
from nlsr_jax.parallel import is_first
from nlsr_jax.pipeline.accompanying import INPUT as COMPANIONS
from nlsr_jax.pipeline.accompanying import open_companions, write_card
from nlsr_jax.pipeline.checking import CHECK, Candidates, Loaded, OutputCheck, open_check
from nlsr_jax.pipeline.hub_inputs import DATA, MODELS, with_hub_folders
from nlsr_jax.pipeline.recording import TEMPLATE, digested_inputs, made_on, write_record
from nlsr_jax.pipeline.run import Run, start
from nlsr_jax.pipeline.settings import Settings, name_inputs, with_absolute_paths
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.pipeline.templating import describe_template, settled_template
from nlsr_jax.pipeline.weights_checks import check_weights
from nlsr_jax.pipeline.weights_decision import decide_weights
from nlsr_jax.pipeline.weights_evidence import ModelData
from nlsr_jax.pipeline.weights_masks import FoundMasks, write_masks
from nlsr_jax.pipeline.weights_sources import (
    Distances,
    ModelSources,
    check_distances,
    describe_carried,
    measure_distances,
    open_models,
    tokenizer_folder,
)
from nlsr_jax.pipeline.weights_writing import RepairedWeights, describe_residual, write_as_adapter, write_model
from nlsr_jax.progress import Stages
from nlsr_jax.random_streams import describe_key, stream
from nlsr_jax.report import draw_figures, render_report

_NOT_OF_ADAPTERS = ("config.json", "generation_config.json")
"""Files of a model's folder that an adapter has no use for."""


def realign_weights(
    settings: Settings,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    recorded: dict | None = None,
    preset: str | None = None,
    stages: Stages | None = None,
    mesh: Mesh | None = None,
    read: Inputs | None = None,
    draw: Callable[[dict], dict] = draw_figures,
    check: OutputCheck | None = None,
    shared: Shared | None = None,
) -> dict:
    """Realign a fully fine-tuned model on disk; see ``realign_files``, whose arguments these are.

    Args:
      settings: ``finetuned`` is the directory of the model, ``base`` the aligned model that it was trained from.
      output: the folder to write: the model in the shards and types of its input with its config, tokenizer and
        other files, or with ``as_adapter`` a PEFT adapter on the base; ``masks.safetensors``, ``realignment.json``
        and ``report.html``. It appears whole or not at all.
      overwrite, recorded, preset, stages, mesh, read, draw, check, shared: see ``realign_files``.

    Returns:
      The record; empty in a process that does not write.

    Raises:
      InputError: any input or setting that cannot be used; nothing is written then.
    """
    if settings.basis == "turned":  # as the recommended settings say of adapters; matrices have no rank axis
        settings = dataclasses.replace(settings, basis="as_is")
    settings = dataclasses.replace(settings, strength=settings.given_strength)
    check_weights(settings)
    stages = stages or Stages(show=False)
    if recorded is None:
        settings = with_hub_folders(settings, (*MODELS, *DATA), stages)
    settings = with_absolute_paths(settings)
    inputs = {**name_inputs(settings), **(read or {})}
    place = check_free(output, overwrite, inputs=inputs)
    with start(settings.seed, stages, mesh=mesh, recorded=recorded, output=place, shared=shared) as run:
        adapter = settings.as_adapter is not None
        open_check(check, settings.base, run)
        sources, distances = _open(settings, run)
        if settings.needs_base:
            tokens = tokenizer_folder(settings, sources.finetuned.folder)
            named = settled_template(settings.template, tokens, run, settings.calibration)
            settings = dataclasses.replace(settings, template=named)
        data = ModelData(settings, sources, run)
        companions = open_companions(sources.finetuned.folder, run, without=_NOT_OF_ADAPTERS if adapter else ())
        if not is_first():  # the passes over the data need every process, what follows one
            for _ in data.pieces() if settings.masks is None else ():
                pass
            return {}
        with whole_directory(place, overwrite=overwrite, inputs=inputs) as folder:
            masks = _obtain_masks(folder, settings, sources, data, run)
            made, written = _repair(folder, settings, sources, masks, run)
            told = _tell(settings, made, distances, written, run)
            told |= {} if companions is None else {COMPANIONS: companions.describe()}
            told |= {} if preset is None else {"preset": preset}
            told |= describe_template(settings.template, data.tokenizer) if settings.needs_base else {}
            record = _record(settings, made, told, data, run)
            if companions is not None:
                written["digests"] |= copy_companions(companions, folder)
            if check is not None:
                models = _models(folder, sources, settings.dtype, written["digests"], run)
                record[CHECK] = check.run(folder, models, run)
            known = {**written["digests"], MASKS_FILE: masks.digest}
            if companions is not None:
                write_card(folder, companions, record, base=settings.base, digests=known)
            _finish(folder, record, known, draw, run)
    return record


def _open(settings: Settings, run: Run) -> tuple[ModelSources, Distances]:
    run.stages.say(f"{settings.finetuned} is a full model: its weights are compared with those of the base")
    with run.stages("read models"):
        sources = open_models(settings, run)
    with run.stages("compare models"):
        distances = measure_distances(sources)
        check_distances(distances, settings, repeats=run.recorded is not None)
    _check_layers(settings, sources)
    return sources, distances


def _check_layers(settings: Settings, sources: ModelSources) -> None:
    beyond = [layer for layer in settings.layers or () if layer >= sources.finetuned.num_layers]
    if beyond:
        raise InputError(
            f"{argument('layers')} has {beyond[0]}; {settings.finetuned} has layers 0 to "
            f"{sources.finetuned.num_layers - 1}"
        )


def _models(
    folder: pathlib.Path, sources: ModelSources, dtype: str, written: Mapping[str, str], run: Run
) -> Candidates:
    """Return the two models to ask: the repaired one, or the base with its adapter, and the fine-tuned one."""
    from nlsr_jax.formats.peft import open_adapter
    from nlsr_jax.models import load_model

    def load(place: str | os.PathLike) -> Loaded:
        if is_model_folder(place):
            return (*load_model(place, dtype=dtype, mesh=run.mesh, note=run.stages.say), None)
        return (*load(sources.aligned.folder)[:2], open_adapter(place).load())

    finetuned = sources.finetuned.folder
    return Candidates(sources.aligned.path, written, lambda: load(folder), lambda: load(finetuned), lambda: None)


def _obtain_masks(folder: pathlib.Path, settings: Settings, sources, data: ModelData, run: Run) -> FoundMasks:
    """Find the masks, or copy those that were given."""
    path = folder / MASKS_FILE
    if settings.masks is not None:
        given = WeightMaskFile(settings.masks, sources.finetuned)
        run.digests.add("masks", settings.masks, [given.path])
        digest = copy_digested(given.path, path)
        return FoundMasks(WeightMaskFile(path, sources.finetuned), given.metadata.get("method", "given"), digest)
    pieces = data.pieces()
    first = next(pieces)  # the pass over the data is a stage of its own
    with run.stages("identify"):
        key = stream(run.key, "identification")
        found = write_masks(path, sources, settings, key, _behind(first, pieces))
    run.notes.add(data.notes)
    return found


def _behind(first, rest):
    yield first
    yield from rest


def _repair(
    folder: pathlib.Path, settings: Settings, sources: ModelSources, masks: FoundMasks, run: Run
) -> tuple[RepairedWeights, dict[str, Any]]:
    """Decide, and write model or adapter."""
    key = stream(run.key, "pruning")
    with run.stages("compare"):
        made = RepairedWeights(sources, masks, decide_weights(key, settings, masks.file, sources))
    with run.stages("write"):
        if settings.as_adapter is None:
            return made, {"digests": write_model(made, folder)}
        own = stream(run.key, "as_adapter")
        digests, residual = write_as_adapter(made, folder, settings.as_adapter, own)
    found = describe_residual(residual)
    run.stages.say(
        f"adapter of rank {settings.as_adapter}: leaves out {found['mean_residual']:.2%} of the repaired update in "
        f"the mean of the modules, {found['highest_residual']:.2%} at most"
    )
    return made, {"digests": digests, "adapter": {"rank": settings.as_adapter, **found}}


def _tell(
    settings: Settings, made: RepairedWeights, distances: Distances, written: Mapping[str, Any], run: Run
) -> dict[str, Any]:
    """Return what the record says of weights space, and note what was trained and is not repaired."""
    carried = describe_carried(made.sources)
    if changed := carried["changed"]:
        names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        fate = "are copied unchanged" if settings.as_adapter is None else "are not in the adapter"
        run.notes.add([f"{len(changed)} tensors beside the projections differ from the base and {fate}: {names}"])
    run.notes.say()
    found: dict[str, Any] = {
        "masks": LAYOUT,
        "update": distances.update,
        **({} if distances.direction is None else {"direction": distances.direction, "undone": distances.undone}),
        "carried": carried,
    }
    if "adapter" in written:
        found["adapter"] = written["adapter"]
    return {"weights": found}


def _record(
    settings: Settings,
    made: RepairedWeights,
    told: dict[str, Any],
    data: ModelData,
    run: Run,
) -> dict[str, Any]:
    """Return the record; outputs, seconds and seal are added when they are known."""
    modules = made.decision.describe(made.sources)
    searched = settings.masks is None and settings.needs_data
    return {
        "format": records.FORMAT,
        "format_version": records.VERSION,
        **({"preset": told["preset"]} if "preset" in told else {}),
        "settings": dataclasses.asdict(settings),
        "key": {
            "seed": settings.seed,
            **describe_key(run.key),
            "pruning": describe_key(stream(run.key, "pruning")),
        },
        "inputs": digested_inputs(run, lifted=True),
        "outputs": {},
        "identification": {"method": made.masks.method},
        "calibration": data.rows.counts if searched else None,
        "summary": _summarise(modules),
        "weights": told["weights"],
        "modules": modules,
        **{name: told[name] for name in (COMPANIONS, TEMPLATE) if name in told},
        "warnings": run.notes.kept,
        **made_on(),
    }


def _summarise(modules: list[dict[str, Any]]) -> dict[str, Any]:
    repaired = [module for module in modules if not module["pruned"]]
    update = float(np.linalg.norm([module["update_norm"] for module in modules]))
    change = float(np.linalg.norm([module["change_norm"] for module in modules]))
    return {
        "modules": len(modules),
        "repaired": len(repaired),
        "left_alone": len(modules) - len(repaired),
        "mean_similarity": float(np.mean([module["similarity"] for module in modules])),
        "changed_entries": sum(module["kept"] for module in repaired),
        "total_entries": sum(module["size"] for module in modules),
        "change": change / update if update else 0.0,
    }


def _finish(
    folder: pathlib.Path,
    record: dict[str, Any],
    known: Mapping[str, str],
    draw: Callable[[dict], dict],
    run: Run,
) -> None:
    """Write report and record."""
    with run.stages("digest outputs"):
        record["outputs"] = records.digest_folder(folder, known)
    with run.stages("report"):
        write_text(folder / "report.html", render_report(record, draw(record)))
        record["outputs"]["report.html"] = sha256(folder / "report.html")
    write_record(folder / records.FILE, record, run.stages)
