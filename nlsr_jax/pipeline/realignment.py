"""From files to files: realign one PEFT adapter and write it with its record and its report."""

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import Inputs
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.large_file import copy_digested
from nlsr_jax.files.output import check_free, whole_directory, write_text
from nlsr_jax.formats import record as records
from nlsr_jax.formats.checkpoint import save_checkpoint
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.formats.mask_files import MaskFile, write_masks
from nlsr_jax.nlsr.lineage import Verdict
from nlsr_jax.nlsr.pruning import unclipped_probability
from nlsr_jax.nlsr.realign import repaired_layers
from nlsr_jax.parallel import is_first
from nlsr_jax.pipeline.adapters import (
    NOT_MEASURED,
    Lineage,
    check_base,
    check_reference,
    measure_lineage,
    open_sources,
    source_notes,
)
from nlsr_jax.pipeline.base_names import check_trained_on, with_named_base
from nlsr_jax.pipeline.choosing import AUTOMATIC, choose_for, describe_choice, doubt_choice, note_choice
from nlsr_jax.pipeline.descent import (
    check_lineage,
    check_weak,
    describe_module,
    describe_verdict,
    note_base_names,
    note_place,
)
from nlsr_jax.pipeline.identification import CalibrationData, Masks, obtain_masks
from nlsr_jax.pipeline.lifting import Trimmed, open_lifted, trim
from nlsr_jax.pipeline.restoration import Decision, compare, decide, write_restored
from nlsr_jax.pipeline.settings import Settings, check_settings, name_inputs, with_absolute_paths
from nlsr_jax.pipeline.stages import Stages
from nlsr_jax.random_streams import describe_key, stream
from nlsr_jax.report import draw_figures, render_report

_DRAWING = concurrent.futures.ThreadPoolExecutor(1)
"""One thread for all figures of a process: matplotlib keeps its fonts open for every thread that ever drew."""


def realign_files(
    settings: Settings,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    recorded: dict | None = None,
    automatic: float | Mapping[str, float] | None = None,
    chosen: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
    mesh: Mesh | None = None,
    digests: records.Begun = records.nothing_begun,
    read: Inputs | None = None,
    draw: Callable[[dict], dict] = draw_figures,
) -> dict:
    """Realign a fine-tuned adapter on disk.

    Args:
      settings: inputs and settings.
      output: the folder to write: ``adapter_config.json``, ``adapter_model.safetensors``,
        ``masks.safetensors``, ``checkpoint/`` (Orbax), ``realignment.json``, ``report.html``. It
        appears whole or not at all.
      overwrite: replace an output of this project that exists.
      recorded: the ``inputs`` of a record that this run repeats; the digests must be equal.
      automatic: choose β and the sparsity of ``gain`` by the calibration data with this aim, or with these of the
        arguments ``aim``, ``headroom`` and ``share`` of ``choose_settings``. The record's settings hold what was
        chosen, its ``automatic`` how.
      chosen: the ``automatic`` of a record that this run repeats.
      stages: where to report progress.
      mesh: lay the base over these devices; None for one. Of several processes, the first one writes.
      digests: finds digests of inputs that have been begun.
      read: what else has been read, by the name for messages, such as the record that is repeated.
      draw: draws the figures of the report from the record, in a thread.

    Returns:
      The record, as written to ``realignment.json``.

    Raises:
      InputError: any input or setting that cannot be used, or an output that is, holds or lies in an input; nothing
        is written then.
    """
    stages = stages or Stages(show=False)
    if automatic is not None:
        if settings.masks is not None:
            raise InputError("--masks are given together with --automatic, which finds them; leave one of them out")
        if settings.lifts:
            raise InputError(
                "--automatic is given without --aligned; it chooses for adapters of one lineage, and an adapter on "
                "the aligned model itself has fixed settings: leave --automatic out"
            )
        settings = dataclasses.replace(settings, **AUTOMATIC)
    settings = with_named_base(settings, stages)
    check_settings(settings)
    if not (settings.allow_unrelated or recorded is not None):
        check_trained_on(settings)
    settings = with_absolute_paths(settings)
    inputs = {**name_inputs(settings), **(read or {})}
    place = check_free(output, overwrite, inputs=inputs)
    found = records.Digests(digests)
    whole = functools.partial(whole_directory, place, overwrite=overwrite, inputs=inputs)
    try:
        return _realign_files(settings, whole, recorded, automatic, chosen, stages, found, mesh, draw)
    finally:
        found.close()


def _realign_files(settings, whole, recorded, automatic, chosen, stages, digests, mesh, draw):
    key = jax.random.key(settings.seed)
    warnings: list[str] = []
    if settings.lifts:
        stages.say("no --aligned: the base itself is the aligned model, on which the adapter was trained")
    with stages("read adapters"):
        sources = open_lifted(settings, digests, stages) if settings.lifts else open_sources(settings, digests)
        check_reference(sources, settings)
        check_base(sources, settings)
        if settings.layers is not None:
            repaired_layers(sources.target.shapes(), settings.layers)
        warnings += source_notes(sources)
    bases = note_base_names(settings, sources) + note_place(settings, sources)
    _say_notes(bases, stages)  # at once: what follows may be refused
    warnings += bases

    def check(lineage: Lineage) -> Verdict:
        again = recorded is not None
        return check_lineage(settings, sources.target.shapes(), lineage, warnings, stages, repeated=again)

    known = verdict = None
    if settings.lifts:
        known = NOT_MEASURED
    elif settings.masks is None:  # before anything costly
        with stages("check lineage"):
            check_weak(settings, sources, warnings, repeated=recorded is not None)
            known = measure_lineage(sources, settings)
            verdict = check(known)
    data = CalibrationData(settings, digests, stages, mesh, sources)
    if automatic is not None:
        settings, chosen = choose_for(settings, automatic, sources, data, stages)
        stages.say(describe_choice(chosen))
    if chosen is not None:
        doubts = doubt_choice(chosen)
        chosen = {**chosen, "doubts": doubts}
        for doubt in doubts:
            stages.say(f"warning: {doubt}")
        warnings[:0] = doubts
        warnings += note_choice(chosen)
    masks = obtain_masks(settings, sources, key, digests, stages, data)
    warnings += data.notes
    pruning_key = stream(key, "pruning")

    def decided() -> tuple[dict, Decision, Trimmed | None]:
        with stages("compare"):
            found = compare(masks.masks, sources, settings, known)
            descent = None if settings.lifts else verdict or check(found.lineage)
            decision = decide(pruning_key, found, sources, settings)
            trimmed = trim(sources.target, masks.masks, decision.pruned) if settings.lifts else None
        _note_decision(settings, decision, warnings)
        with stages("digest inputs"):
            inputs = digests.result()
            if recorded is not None:
                records.check_digests(recorded, inputs, "record")
        record = _describe(settings, key, pruning_key, inputs, masks, sources, found.lineage, decision, warnings)
        if descent is not None:
            record["lineage"] = describe_verdict(descent)
        if trimmed is not None:
            record["lift"] = trimmed.describe()
        if chosen is not None:
            record["automatic"] = chosen
        said = [*bases, *((chosen or {}).get("doubts", []))]
        _say_notes([warning for warning in warnings if warning not in said], stages)
        return record, decision, trimmed

    if not is_first():
        return decided()[0]
    with whole() as folder, concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The disk takes them while the processor compares.
        kept = pool.submit(_keep_masks, folder, settings, masks, sources.target.shapes(), pruning_key)
        record, decision, trimmed = decided()
        if kept.done():
            kept.result()  # an error, before the rest is written for nothing
        _write(folder, settings, record, masks, kept, (decision, trimmed), sources, stages, draw)
    return record


def _say_notes(notes, stages) -> None:
    for note in notes:
        stages.say(f"note: {note}")


def _note_decision(settings, decision: Decision, warnings):
    zero = sum(int(np.sum(z)) for z in decision.zero_norm.values())
    if zero and not settings.lifts:  # whose aligned adapter is zero
        warnings.append(f"{zero} modules have a masked product of zero; their similarity is set to 0")
    if settings.rule == "probability":
        raw = unclipped_probability(decision.similarity, settings.base_probability, settings.increment)
        values = np.concatenate([np.asarray(p) for p in raw.values()])
        outside = int(np.sum((values < 0) | (values > 1)))
        if outside:
            warnings.append(f"{outside} probabilities were outside [0, 1] and have been clipped")
        if settings.increment < 0:
            warnings.append("the increment is negative: the more similar a module, the more likely its repair")


def _describe(settings, key, pruning_key, inputs, masks: Masks, sources, lineage, decision, warnings) -> dict:
    modules = _describe_modules(sources.target.shapes(), lineage.figures, decision)
    repaired = [m for m in modules if not m["pruned"]]
    lifted = ("pretrained",) if settings.lifts else ()
    names = ("base", "aligned", "finetuned", "weak", *lifted, "calibration", "masks")
    return {
        "format": records.FORMAT,
        "format_version": records.VERSION,
        "settings": dataclasses.asdict(settings),
        "key": {"seed": settings.seed, **describe_key(key), "pruning": describe_key(pruning_key)},
        "inputs": {name: inputs.get(name) for name in names},
        "outputs": {},
        "identification": {"method": masks.method},
        "calibration": masks.calibration,
        "summary": {
            "modules": len(modules),
            "repaired": len(repaired),
            "left_alone": len(modules) - len(repaired),
            "mean_similarity": float(np.mean([m["similarity"] for m in modules])),
            "changed_entries": sum(m["kept_a"] + m["kept_b"] for m in repaired),
            "total_entries": sum(m["size_a"] + m["size_b"] for m in modules),
        },
        "modules": modules,
        **({"carried": sources.target.carried.describe()} if sources.target.carried else {}),
        "warnings": warnings,
        "versions": records.versions(),
        "commit": records.commit(),
        "device": records.device(),
        "seconds": {},
    }


def _describe_modules(shapes: Adapter, figures, decision: Decision) -> list[dict]:
    """One entry per module, layer by layer."""
    entries = []
    for module in module_names(shapes.factors):
        for i, layer in enumerate(layer_indices(shapes, module)):
            entry = {
                "layer": layer,
                "module": module,
                "similarity": float(decision.similarity[module][i]),
                "probability": float(decision.probability[module][i]),
                "pruned": bool(decision.pruned[module][i]),
                "zero_norm": bool(decision.zero_norm[module][i]),
                **describe_module(figures, module, i),
            }
            for factor in ("a", "b"):
                entry[f"kept_{factor}"] = int(decision.kept[module][factor][i])
                entry[f"size_{factor}"] = math.prod(shapes.factors[module][factor].shape[1:])
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry["layer"])


def _write(folder, settings, record, masks: Masks, kept: concurrent.futures.Future, decided, sources, stages, draw):
    decision, trimmed = decided
    with stages("write"):
        figures = _DRAWING.submit(draw, record)
        digests, notes = write_restored(folder, decision, masks.masks, sources, settings, trimmed)
        digests |= kept.result()
        record["warnings"] += notes
        _say_notes(notes, stages)
    with stages("digest outputs"):
        record["outputs"] = records.digest_folder(folder, digests)
    with stages("report"):
        # Without the seconds and Orbax's files, which hold the time: the same run gives the same page.
        fixed = {name: digest for name, digest in record["outputs"].items() if "/" not in name}
        page = render_report({**record, "outputs": fixed}, figures.result())
        write_text(folder / "report.html", page)
        record["outputs"]["report.html"] = sha256(folder / "report.html")
    record["seconds"] = dict(stages.seconds)
    record["seal"] = records.seal(record)
    write_text(folder / records.FILE, records.dump(record))


def _keep_masks(folder, settings, masks: Masks, shapes: Adapter, pruning_key) -> dict[str, str]:
    """Write masks and checkpoint; returns the digest of the masks by file name."""
    layers = {m: layer_indices(shapes, m) for m in module_names(shapes.factors)}
    digest = _write_masks(settings, masks, layers, folder / MASKS_FILE)
    save_checkpoint(folder / "checkpoint", masks.masks, pruning_key)
    return {MASKS_FILE: digest}


def _write_masks(settings, masks: Masks, layers, path) -> str:
    """Write identified masks, or copy masks that were given; return the file's digest."""
    if isinstance(masks.masks, MaskFile):
        return copy_digested(masks.masks.path, path)
    metadata = {"method": masks.method, "sparsity": settings.sparsity}
    write_masks(masks.masks, path, layers=layers, metadata=metadata)
    return sha256(path)
