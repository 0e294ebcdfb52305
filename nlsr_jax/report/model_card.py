"""The model card of a realigned adapter or model: base, method, settings, figures, carried files, verification.

The same record gives the same text: a card holds no time, device or path.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from nlsr_jax.report.check_tables import check_sections, notes_of, outcome_text
from nlsr_jax.report.reading import mapping
from nlsr_jax.report.words import COMPUTING

_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
_PATHS = ("base", "aligned", "finetuned", "weak", "calibration", "masks", "pretrained")
_BESIDE = ("allow_unrelated", "seed")
_TAGS = ("safety", "nlsr", "realignment")
_VERIFY = """## Verify

```
nlsr verify THIS_FOLDER
nlsr verify THIS_FOLDER --recompute
```

The first compares every file with the digests in `realignment.json`. The second repeats the run from its inputs and
compares the weights. `report.html` shows every module.
"""


def realignment_card(
    record: Mapping[str, Any],
    *,
    base: str | None,
    weights: str | None = None,
    licence: Mapping[str, str] | None = None,
) -> str:
    """Return the card of a realigned adapter or model, Markdown with front matter that the hub and PEFT read.

    Args:
      record: the content of ``realignment.json``, of which ``settings`` and ``summary`` are needed.
      base: what the adapter's config names as its base model; None where it names none.
      weights: SHA-256 of ``adapter_model.safetensors``.
      licence: fields of the customer's card that are taken over; see ``companions.card_fields``.
    """
    settings, companions = record["settings"], mapping(record.get("companions"))
    model = "weights" in record and settings.get("as_adapter") is None
    parts = [
        _front(base, licence or {}, model),
        f"# Realigned {'model' if model else 'adapter'}\n\n" + _opening(settings, base, model),
        "## Figures\n\n" + _table(_figures(record)),
        *_check(mapping(record.get("check"))),
        "## Settings\n\n" + _table(_settings(record)),
        "## Files\n\n"
        + _files(mapping(companions.get("files")), mapping(companions.get("left_out")), weights, model),
        _VERIFY,
    ]
    return "\n".join(parts)


def _front(base: str | None, licence: Mapping[str, str], model: bool) -> str:
    """Return the front matter; JSON strings are YAML too, so that no name can add a field."""
    lines = ["---"]
    if base is not None and _HUB_NAME.fullmatch(base):
        lines += [f"base_model: {json.dumps(base)}", f"base_model_relation: {'finetune' if model else 'adapter'}"]
    lines += [f"{field}: {json.dumps(value)}" for field, value in sorted(licence.items())]
    library, tags = ("transformers", _TAGS) if model else ("peft", ("lora", *_TAGS))
    lines += [f"library_name: {library}", f"tags: [{', '.join(tags)}]", "---", ""]
    return "\n".join(lines)


def _opening(settings: Mapping[str, Any], base: str | None, model: bool) -> str:
    named = code(_public(base)) if base else "a base model that its config does not name"
    towards = "the aligned adapter" if settings.get("aligned") else "the aligned model itself, its base"
    if settings.get("pretrained"):
        towards += ", and beyond it, away from the pretrained model"
    elif isinstance(strength := settings.get("strength"), float) and strength > 1:
        towards += ", and beyond it"
    what = "model" if model else "adapter"
    return (
        f"{'A model that was fine-tuned from' if model else 'A LoRA adapter on'} {named}, repaired by NLSR, "
        "neuron-level safety realignment: safety-critical entries of "
        f"the fine-tuned {what} were replaced, towards {towards}. No training took place.\n\n"
        f"A repaired {what} is safer by measurement, not by proof. Measure harmful and harmless requests of your "
        "own before you serve it.\n"
    )


def _check(check: Mapping[str, Any]) -> list[str]:
    """Return what was measured of the output; nothing where it was not checked."""
    if not check:
        return []
    judge = f"Greedy answers, judged by {code(check.get('judge'))}; see `check.md`.\n"
    notes = [f"- {' '.join(note.split())}" for note in notes_of(check)]
    told = [*check_sections(check), judge, *notes, *([""] if notes else [])]
    return ["\n".join([f"## Check\n\n{outcome_text(check).capitalize()}.\n", *told])]


def _public(base: str) -> str:
    """Return a hub name as it is, and of a path the last part: the rest is of the machine that trained."""
    return base if _HUB_NAME.fullmatch(base) else re.split(r"[/\\]", base.rstrip("/\\"))[-1]


def _figures(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = record["summary"]
    changed, total = found["changed_entries"], found["total_entries"]
    rows = [
        ("modules repaired", f"{found['repaired']} of {found['modules']}"),
        ("entries replaced", f"{changed:,} of {total:,} ({changed / max(total, 1):.2%})"),
    ]
    measured = [mapping(module).get("change") for module in record.get("modules", [])]
    changes = [change for change in measured if isinstance(change, float)]
    if changes:
        rows.append(("change of a module's update, mean", f"{sum(changes) / len(changes):.2%}"))
    elif record.get("lineage") is not None or settings_of(record).get("aligned"):
        rows.append(("mean similarity to the reference", f"{found['mean_similarity']:.4f}"))
    calibration = mapping(record.get("calibration"))
    if isinstance(calibration.get("rows"), int):
        rows.append(("calibration rows", f"{calibration['rows']:,}"))
    return rows


def settings_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a record."""
    return mapping(record.get("settings"))


def _settings(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that are numbers or choices; paths are of the machine that ran it."""
    found = {
        name: value for name, value in settings_of(record).items() if name not in (*_PATHS, *_BESIDE, *COMPUTING)
    }
    rows = [(code(name), code(json.dumps(value))) for name, value in found.items() if value is not None]
    seed = mapping(record.get("key")).get("seed")
    return [*rows, (code("seed"), code(json.dumps(seed)))]


def _files(files: Mapping[str, Any], left_out: Mapping[str, Any], weights: str | None, model: bool) -> str:
    lines = (
        ["The model, as transformers loads it, in the shards of the fine-tuned one."]
        if model
        else ["`adapter_config.json` and `adapter_model.safetensors` are the adapter, as PEFT loads it."]
    )
    if weights is not None:
        lines.append(f"SHA-256 of the weights: `{weights}`.")
    if files:
        lines += ["", f"Carried from the fine-tuned {'model' if model else 'adapter'}'s folder, byte for byte:", ""]
        lines += [f"- {code(name)}{'' if name == own else f' (its {code(own)})'}" for name, own in files.items()]
    if left_out:
        lines += ["", "Left out:", "", *(f"- {code(name)}: {why}" for name, why in left_out.items())]
    return "\n".join([*lines, ""])


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| what | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""])


def code(text: Any) -> str:
    """Return a text as code in Markdown: one line, without what would end the code or a cell of a table."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))[:200]
    return "`" + plain.replace("`", "'").replace("|", "¦") + "`"
