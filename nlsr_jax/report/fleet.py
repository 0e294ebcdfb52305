"""The page of a fleet: all jobs in one table, what failed before all others.

It holds no times: the same jobs give the same page.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nlsr_jax.report.page import make_template
from nlsr_jax.report.reading import mapping, number

TITLE = "<title>Fleet: "
_CLASSES = {"failed": "failed", "withheld": "failed", "repaired": "repaired", "unchanged": "left"}
"""Outcomes in the order in which they are sorted, and their classes of style."""


def render_fleet(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a fleet's table.

    Args:
      rows: from ``describe_jobs``.

    Returns:
      HTML with embedded style and script; it loads nothing.
    """
    done = [row for row in rows if row["error"] is None]
    jobs = [_job(place, row) for place, row in enumerate(rows)]
    measured = [job for job in jobs if job["before"] is not None and job["after"] is not None]
    return make_template("fleet.html").render(
        jobs=jobs,
        failed=[row for row in rows if row["outcome"] == "failed"],
        counts={name: sum(row["outcome"] == name for row in rows) for name in _CLASSES},
        classes=_CLASSES,
        checks=[row["check"] for row in rows if "check" in row],
        changed=_middle([job["changed"] for job in jobs]),
        before=_middle([job["before"] for job in measured]),
        after=_middle([job["after"] for job in measured]),
        aligned=_middle([job["aligned"] for job in measured]),
        warned=sum(bool(row["warnings"]) for row in done),
        shows_refusals=any(job["before"] is not None for job in jobs),
    )


def _job(place: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as the page shows it; None for what there is not."""
    entries, changed = number(row.get("entries"), 1), number(row.get("entries_changed"), 0)
    before, after, aligned = (mapping(row.get(f"refused_{name}")) for name in ("before", "after", "aligned"))
    unchanged = row["outcome"] == "unchanged"
    return {
        "place": place,
        "output": row["output"],
        "finetuned": row["finetuned"],
        "outcome": row["outcome"],
        "error": row["error"],
        "warnings": row["warnings"],
        "check": row.get("check"),
        "changed": None if entries is None or changed is None else changed / entries,
        "repaired": row.get("modules_repaired"),
        "modules": row.get("modules"),
        "before": number(before.get("harmful"), 0, 1),
        "after": number((before if unchanged else after).get("harmful"), 0, 1),
        "harmless": number((before if unchanged else after).get("harmless"), 0, 1),
        "aligned": number(aligned.get("harmful"), 0, 1),
    }


def _middle(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None
