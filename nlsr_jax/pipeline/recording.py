"""The records of the runs: what was asked, read, decided and written, and on what."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.files.output import write_text
from nlsr_jax.formats import record as records
from nlsr_jax.pipeline.accompanying import INPUT
from nlsr_jax.pipeline.decision import Decision
from nlsr_jax.pipeline.descent import Descent, describe_module, describe_products, describe_verdict
from nlsr_jax.pipeline.identification import Masks, count_kept
from nlsr_jax.pipeline.restoration import Restoration
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.progress import Stages
from nlsr_jax.random_streams import describe_key, stream

HARMLESS, KEEP, TEMPLATE = "harmless", "keep", "template"
"""Names of the harmless prompts, the task's prompts and the template among the inputs."""
IDENTIFICATION = "nlsr_jax.identification"
IDENTIFICATION_FILE = "identification.json"


def record_realignment(
    settings: Settings, made: Restoration, descent: Descent, told: Mapping[str, Any], run: Run
) -> dict[str, Any]:
    """Return the record of a realignment; outputs, seconds and seal are added when they are known.

    Args:
      settings: of the run.
      made: what the written adapter is made of.
      descent: how the fine-tuned adapter lies to the aligned one.
      told: ``preset``, its name, ``automatic`` and ``refinement``, descriptions of choices, and ``companions``,
        what is carried beside the adapter; what is not there is not recorded.
      run: the context; its notes are the record's warnings, those that are added later too.

    Raises:
      InputError: an input that cannot be digested, or that is not the one of the record that is repeated.
    """
    shapes = made.sources.target.shapes()
    modules = _describe_modules(shapes, descent.lineage.figures, made.decision, made.sources.fixed)
    carried = made.sources.target.carried
    record = {
        "format": records.FORMAT,
        "format_version": records.VERSION,
        **({"preset": told["preset"]} if "preset" in told else {}),
        "settings": dataclasses.asdict(settings),
        "key": {"seed": settings.seed, **describe_key(run.key), "pruning": describe_key(made.key)},
        "inputs": digested_inputs(run, lifted=settings.lifts),
        "outputs": {},
        "identification": {"method": made.masks.method},
        "calibration": made.masks.calibration,
        "summary": _summarise(modules),
        "modules": modules,
        **({"carried": carried.describe()} if carried else {}),
        **({INPUT: told[INPUT]} if INPUT in told else {}),
        "warnings": run.notes.kept,
        **made_on(),
    }
    if descent.verdict is not None:
        record["lineage"] = describe_verdict(descent.verdict)
    if made.trimmed is not None:
        record["lift"] = made.trimmed.describe()
        if products := describe_products(descent.lineage):
            record["lineage"] = products
        if record["lift"]["basis"] == "turned":
            record["key"]["basis"] = describe_key(stream(run.key, "basis"))
    return record | {name: told[name] for name in ("automatic", "refinement", TEMPLATE) if name in told}


def digested_inputs(run: Run, *, lifted: bool) -> dict[str, Any]:
    """Return the digests of the inputs, compared with those of the record that is repeated."""
    with run.stages("digest inputs"):
        found = run.digests.result()
        if run.recorded is not None:
            records.check_digests(run.recorded, found, "record")
    names = ["base", "aligned", "finetuned", "weak", "calibration", "masks"]
    if lifted:
        names.insert(4, "pretrained")
    added = {name: found[name] for name in (HARMLESS, KEEP, TEMPLATE, INPUT) if name in found}
    return {name: found.get(name) for name in names} | added


def _summarise(modules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    repaired = [module for module in modules if not module["pruned"]]
    return {
        "modules": len(modules),
        "repaired": len(repaired),
        "left_alone": len(modules) - len(repaired),
        "mean_similarity": float(np.mean([module["similarity"] for module in modules])),
        "changed_entries": sum(module["kept_a"] + module["kept_b"] for module in repaired),
        "total_entries": sum(module["size_a"] + module["size_b"] for module in modules),
    }


def record_identification(
    settings: Settings, reference: Adapter, masks: Masks, told: Mapping[str, Any], run: Run
) -> dict[str, Any]:
    """Return the record of an identification; outputs, seconds and seal are added when they are known.

    Args:
      settings, reference, masks: of the run.
      told: what else the record says, by name.
      run: the context.
    """
    warnings = run.notes.kept
    return {
        "format": IDENTIFICATION,
        "format_version": records.VERSION,
        "settings": dataclasses.asdict(settings),
        "key": {"seed": settings.seed, **describe_key(run.key)},
        "inputs": run.digests.result(),
        "outputs": {},
        "calibration": masks.calibration,
        "modules": describe_counts(reference, masks.masks),
        **told,
        **({"warnings": warnings} if warnings else {}),
        **made_on(),
    }


def made_on() -> dict[str, Any]:
    """Return versions, commit and device, and an empty place for the seconds."""
    return {
        "versions": records.versions(),
        "commit": records.commit(),
        "device": records.device(),
        "seconds": {},
    }


def write_record(path: pathlib.Path, record: dict[str, Any], stages: Stages) -> None:
    """Add seconds and seal to a record and write it."""
    record["seconds"] = dict(stages.seconds)
    record["seal"] = records.seal(record)
    write_text(path, records.dump(record))


def _describe_modules(
    shapes: Adapter, figures: Mapping[str, Any], decision: Decision, fixed: Mapping[str, int]
) -> list[dict]:
    """One entry per module, layer by layer; sizes are those of the candidates."""
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
            for name, values in (("change", decision.change), ("taken", decision.taken)):
                if module in values:
                    entry[name] = float(values[module][i])
            for factor, axis in (("a", 1), ("b", 2)):
                shape = list(shapes.factors[module][factor].shape)
                shape[axis] -= fixed.get(module, 0)
                entry[f"kept_{factor}"] = int(decision.kept[module][factor][i])
                entry[f"size_{factor}"] = math.prod(shape[1:])
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry["layer"])


def describe_counts(adapter: Adapter, masks: Mapping[str, Any]) -> list[dict]:
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
