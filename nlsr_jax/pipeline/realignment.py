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
from nlsr_jax.formats import record as records
from nlsr_jax.formats.apart import Inputs
from nlsr_jax.formats.checkpoint import save_checkpoint
from nlsr_jax.formats.digests import sha256
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.formats.mask_files import MaskFile, write_masks
from nlsr_jax.formats.output import check_free, copy_digested, whole_directory, write_text
from nlsr_jax.nlsr.lineage import unrelated_modules
from nlsr_jax.nlsr.pruning import unclipped_probability
from nlsr_jax.nlsr.realign import repaired_layers
from nlsr_jax.parallel import is_first
from nlsr_jax.pipeline.adapters import Lineage, check_reference, measure_lineage, open_sources, whole_finetuned
from nlsr_jax.pipeline.identification import CalibrationData, Masks, obtain_masks
from nlsr_jax.pipeline.restoration import Decision, compare, decide, write_restored
from nlsr_jax.pipeline.settings import Settings, check_settings, name_inputs, with_absolute_paths
from nlsr_jax.pipeline.stages import Stages
from nlsr_jax.random_streams import describe_key, stream
from nlsr_jax.report import draw_figures, render_report

AUTOMATIC: dict[str, Any] = {
    "method": "gain",
    "granularity": "adapter",
    "amplification_space": "factors",
    "rank": None,
    "space": "factors",
    "rule": "all",
    "tau": None,
    "share": None,
    "layers": None,
}
"""The settings of a run whose β and sparsity are chosen."""
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
        arguments ``aim``, ``headroom`` and ``share`` of ``nlsr_jax.automatic.choose_settings``. What was chosen
        stands in the record's settings, how in its ``automatic``.
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
        settings = dataclasses.replace(settings, **AUTOMATIC)
    check_settings(settings)
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
    with stages("read adapters"):
        sources = open_sources(settings, digests)
        check_reference(sources, settings)
        if settings.layers is not None:
            repaired_layers(sources.target.shapes(), settings.layers)
        warnings += [note for source in sources if source is not None for note in source.notes]
    known = None
    if settings.masks is None:  # before anything costly
        with stages("check lineage"):
            known = measure_lineage(sources, settings)
            _check_lineage(settings, sources.target.shapes(), known, warnings, stages)
    data = CalibrationData(settings, digests, stages, mesh)
    if automatic is not None:
        settings, chosen = _choose(settings, automatic, sources, data, stages)
    if chosen is not None:
        warnings += _note_choice(chosen)
    masks = obtain_masks(settings, sources, key, digests, stages, data)
    pruning_key = stream(key, "pruning")

    def decided() -> tuple[dict, Decision]:
        with stages("compare"):
            found = compare(masks.masks, sources, settings, known)
            if known is None:
                _check_lineage(settings, sources.target.shapes(), found.lineage, warnings, stages)
            decision = decide(pruning_key, found, sources, settings)
        _note_decision(settings, decision, warnings)
        with stages("digest inputs"):
            inputs = digests.result()
            if recorded is not None:
                records.check_digests(recorded, inputs, "record")
        record = _describe(settings, key, pruning_key, inputs, masks, sources, found.lineage, decision, warnings)
        if chosen is not None:
            record["automatic"] = chosen
        for warning in warnings:
            stages.say(f"note: {warning}")
        return record, decision

    if not is_first():
        return decided()[0]
    with whole() as folder, concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The disk takes them while the processor compares.
        kept = pool.submit(_keep_masks, folder, settings, masks, sources.target.shapes(), pruning_key)
        record, decision = decided()
        if kept.done():
            kept.result()  # an error, before the rest is written for nothing
        _write(folder, settings, record, masks, kept, decision, sources, stages, draw)
    return record


def _choose(settings, automatic: float | Mapping[str, float], sources, data: CalibrationData, stages):
    """Choose β and sparsity; returns the settings with them and what the record says of it."""
    from nlsr_jax.automatic import AIM, HEADROOM, choose_settings

    asked: dict[str, Any] = {"aim": AIM, "headroom": HEADROOM}
    asked |= automatic if isinstance(automatic, Mapping) else {"aim": automatic}
    unknown = sorted(set(asked) - {"aim", "headroom", "share"})
    if unknown:
        raise InputError(f"automatic has {unknown[0]!r}; expected some of aim, headroom, share")
    weak = None if sources.weak is None else sources.weak.load()
    adapters = (whole_finetuned(sources, settings), sources.aligned.load(), weak)
    batches = data.batches()
    model, params = data.base
    with stages("choose"):
        found = choose_settings(model, params, *adapters, batches, **asked)
    chosen = found.chosen
    stages.say(
        f"automatic: safe answers begin with probability {found.finetuned:.3g} fine-tuned, {found.aimed:.3g} "
        f"aimed at, {chosen.probability:.3g} with beta {chosen.beta:g} and {chosen.share:.4%} of the entries"
    )
    changes: dict = {"beta": chosen.beta, "sparsity": 1 - chosen.share}
    if not chosen.share:
        changes = {"rule": "least_similar", "share": 0.0}
    trials = [trial._asdict() for trial in found.trials]
    described: dict[str, Any] = {
        **asked,
        "met": found.met,
        "aimed": found.aimed,
        "target": found.target,
        "finetuned": found.finetuned,
        "aligned": found.aligned,
        "change": found.change,
    }
    candidates = [candidate._asdict() for candidate in found.candidates]
    described |= {"chosen": chosen._asdict(), "candidates": candidates, "trials": trials}
    return dataclasses.replace(settings, **changes), described


def _note_choice(described: Mapping[str, Any]) -> list[str]:
    """Say where an automatic choice left safe answers less likely, or the adapter as it was.

    Raises:
      InputError: a description, out of a record, that no choice has.
    """
    try:
        return _notes_of_choice(described)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("record: 'automatic' is not the description of a choice") from error


def _notes_of_choice(described: Mapping[str, Any]) -> list[str]:
    chosen, notes = described["chosen"], []
    if not described["met"]:
        notes.append(
            "no setting that was tried makes safe answers as likely as they should be: "
            f"they begin with probability {chosen['probability']:.3g}, aimed at {described['aimed']:.3g}"
        )
    if not chosen["share"]:
        why = (
            "safe answers are as likely as they should be"
            if described["met"]
            else "no repair that was tried gains more than its headroom"
        )
        notes.append(f"{why}: nothing is repaired")
    return notes


def _check_lineage(settings, finetuned, lineage: Lineage, warnings, stages):
    scores = np.concatenate([np.maximum(c["a"], c["b"]) for c in lineage.cosine.values()])
    stages.say(
        f"lineage: cosine of fine-tuned and aligned factors, "
        f"lowest module {scores.min():.3f}, mean {scores.mean():.3f}"
    )
    names = unrelated_modules(finetuned, lineage.cosine)
    if names:
        _refuse_unrelated(settings, names, scores.size, warnings)
    _note_zeros(finetuned, lineage, warnings)


def _refuse_unrelated(settings, names, count, warnings):
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    message = f"{len(names)} of {count} modules do not descend from the aligned adapter: {shown}"
    if not settings.allow_unrelated:
        raise InputError(
            f"{settings.finetuned}: {message}; their factors do not share a rank axis, so masks and "
            "transplant mean nothing there: give the adapter that fine-tuning started from as --aligned, "
            "or --allow_unrelated"
        )
    warnings.append(message)


def _note_zeros(finetuned, lineage, warnings):
    for name, zeros in (("aligned", lineage.zero_aligned), ("finetuned", lineage.zero_finetuned)):
        found = [
            f"layer {layer} {module}.{factor}"
            for module in module_names(zeros)
            for factor, flags in zeros[module].items()
            for layer, zero in zip(layer_indices(finetuned, module), flags, strict=True)
            if zero
        ]
        if found:
            shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
            warnings.append(f"{name}: {len(found)} factors are zero throughout: {shown}")


def _note_decision(settings, decision: Decision, warnings):
    zero = sum(int(np.sum(z)) for z in decision.zero_norm.values())
    if zero:
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
    modules = _describe_modules(sources.target.shapes(), lineage.cosine, decision)
    repaired = [m for m in modules if not m["pruned"]]
    names = ("base", "aligned", "finetuned", "weak", "calibration", "masks")
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
        "warnings": warnings,
        "versions": records.versions(),
        "commit": records.commit(),
        "device": records.device(),
        "seconds": {},
    }


def _describe_modules(shapes: Adapter, cosines, decision: Decision) -> list[dict]:
    """One entry per module, layer by layer."""
    entries = []
    for module in module_names(shapes.factors):
        for i, layer in enumerate(layer_indices(shapes, module)):
            lineage = {f: float(cosines[module][f][i]) for f in ("a", "b")}
            entry = {
                "layer": layer,
                "module": module,
                "similarity": float(decision.similarity[module][i]),
                "probability": float(decision.probability[module][i]),
                "pruned": bool(decision.pruned[module][i]),
                "zero_norm": bool(decision.zero_norm[module][i]),
                "lineage": max(lineage.values()),
                "lineage_a": lineage["a"],
                "lineage_b": lineage["b"],
            }
            for factor in ("a", "b"):
                entry[f"kept_{factor}"] = int(decision.kept[module][factor][i])
                entry[f"size_{factor}"] = math.prod(shapes.factors[module][factor].shape[1:])
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry["layer"])


def _write(
    folder, settings, record, masks: Masks, kept: concurrent.futures.Future, decision, sources, stages, draw
):
    with stages("write"):
        figures = _DRAWING.submit(draw, record)
        digests = write_restored(folder, decision, masks.masks, sources, settings) | kept.result()
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
