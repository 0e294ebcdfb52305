"""The table of a fleet: the outcome of every job, with the figures of its repair."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nlsr_jax.files.output import whole_file, write_text
from nlsr_jax.files.ownership import json_with, text_with
from nlsr_jax.fleet.folder import FleetFolder
from nlsr_jax.fleet.jobs import PAGE, TABLE
from nlsr_jax.fleet.running import Outcome
from nlsr_jax.report.fleet import TITLE, render_fleet

FORMAT = "nlsr_jax.fleet"
VERSION = 1
OUTCOMES = ("repaired", "unchanged", "withheld", "failed")


def describe_jobs(outcomes: Sequence[Outcome], folder: FleetFolder) -> list[dict[str, Any]]:
    """Return a row for every job.

    Args:
      outcomes: of the jobs.
      folder: of the fleet.

    Returns:
      ``output``, ``finetuned``, ``outcome`` (one of ``OUTCOMES``; ``withheld`` is an output that did not pass its
      check), ``seconds``, ``error``, ``warnings``, and what the record of the output says: ``modules``,
      ``modules_repaired``, ``entries``, ``entries_changed``; ``check``, its outcome; of a refined share ``share``
      and the shares of prompts that are refused, before and after the repair and by the aligned model, and
      ``task_kept``, what is left of the answers to prompts of the task, where they were asked.
    """
    return [_describe(one, folder.record(one.task.output)) for one in outcomes]


def _describe(outcome: Outcome, record: Mapping[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"output": outcome.task.output, "finetuned": outcome.task.finetuned}
    if outcome.error is not None or record is None:
        why = {"seconds": outcome.seconds, "error": outcome.error or "its output is gone"}
        return {**row, "outcome": "withheld" if outcome.withheld else "failed", **why, "warnings": []}
    summary = record["summary"]
    changed = summary["changed_entries"]
    row |= {"outcome": "repaired" if changed else "unchanged"}
    row |= {"seconds": round(math.fsum(record["seconds"].values()), 3), "error": None}
    row |= {"warnings": list(record.get("warnings") or [])}
    row |= {"modules": summary["modules"], "modules_repaired": summary["repaired"]}
    row |= {"entries": summary["total_entries"], "entries_changed": changed}
    if check := record.get("check"):
        row["check"] = check["outcome"]
    return row | _refinement(record.get("refinement"))


def _refinement(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a refinement has measured."""
    if not told:
        return {}
    found = {"share": told["share"], "refused_before": told["finetuned"], "refused_aligned": told["aligned"]}
    chosen = [one for one in told["trials"] if one["share"] == told["share"]]
    if chosen:
        found["refused_after"] = {name: chosen[0][name] for name in ("harmful", "harmless")}
        found |= {"task_kept": chosen[0]["kept"]} if "kept" in chosen[0] else {}
    return found


def write_table(rows: Sequence[Mapping[str, Any]], folder: FleetFolder) -> dict[str, int]:
    """Write the table and its page, and return how many jobs have which outcome.

    Raises:
      InputError: they cannot be written.
    """
    counts = {name: sum(row["outcome"] == name for row in rows) for name in OUTCOMES}
    table = {
        "format": FORMAT,
        "format_version": VERSION,
        "summary": {"jobs": len(rows), **counts},
        "jobs": list(rows),
    }
    with whole_file(folder.path / TABLE, overwrite=True, foreign=json_with("format", "jobs")) as file:
        write_text(file, json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    with whole_file(folder.path / PAGE, overwrite=True, foreign=text_with(TITLE)) as file:
        write_text(file, render_fleet(rows))
    return counts
