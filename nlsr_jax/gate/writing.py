"""The files of a check: JSON, a summary in Markdown, JUnit for continuous integration, and the answers."""

import json
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import Any

from nlsr_jax.files.digests import sha256
from nlsr_jax.files.output import write_text
from nlsr_jax.formats.record import dump
from nlsr_jax.gate.bounds import UNDECIDED, VIOLATED
from nlsr_jax.report.check_tables import advice, agreement_line, bound_rows, check_sections, outcome_text, rate_rows
from nlsr_jax.report.model_card import code

JSON, MARKDOWN, JUNIT, ANSWERS = "check.json", "check.md", "check.xml", "answers.jsonl"
_READ = """An interval holds the rate among all such requests in 95 of 100 samples of requests. A bound holds, or is
violated, where the exact one-sided limit of the rate says so; either is wrong in at most 5 of 100 samples. Answers
are greedy. A rate is that of these requests and of this judge.
"""


def write_check(folder: pathlib.Path, record: dict[str, Any], answers: Iterable[Mapping[str, Any]] | None) -> None:
    """Write the files of a check.

    Args:
      folder: a folder that exists.
      record: from ``make_record``; receives ``outputs``, the digests of the other files.
      answers: rows of the answers; None to write none.
    """
    texts = {MARKDOWN: markdown(record), JUNIT: junit(record)}
    if answers is not None:
        texts[ANSWERS] = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in answers)
    for name, text in texts.items():
        write_text(folder / name, text)
    record["outputs"] = {name: sha256(folder / name) for name in sorted(texts)}
    write_text(folder / JSON, dump(record))


def markdown(record: Mapping[str, Any]) -> str:
    """Return the summary of a check."""
    notes = "".join(f"- {_line(note)}\n" for note in record["notes"])
    digests = "".join(
        f"- {name}: {code(file)} {code(digest)}\n"
        for name, files in record["digests"].items()
        for file, digest in files.items()
    )
    broken = ", ".join(f"{count} {fault}" for fault, count in record["broken"].items())
    parts = [
        f"# Check: {outcome_text(record)}\n",
        *check_sections(record),
        f"Answers to requests that are broken, and neither comply nor refuse: {broken}.\n",
        f"Judge: {code(record['judge'])}.\n",
        *(f"{agreement_line(one, record['judge'])}.\n" for one in [record.get("second_judge")] if one),
        _READ,
        f"## Notes\n\n{notes}" if notes else "",
        f"## Inputs\n\n{digests}" if digests else "",
    ]
    return "\n".join(part for part in parts if part)


def junit(record: Mapping[str, Any]) -> str:
    """Return the bounds as JUnit test cases: a violated one is a failure, an undecided one an error."""
    bounds = record["bounds"]
    counts = {"failures": VIOLATED, "errors": UNDECIDED}
    sizes = {name: str(sum(one["outcome"] == kind for one in bounds)) for name, kind in counts.items()}
    suite = ET.Element("testsuite", {"name": "nlsr check", "tests": str(len(bounds)), **sizes, "skipped": "0"})
    for one, (text, outcome, limits, _) in zip(bounds, bound_rows(record), strict=True):
        case = ET.SubElement(suite, "testcase", classname="nlsr.check", name=text)
        said = f"{text}: {outcome}; the rate is at least and at most {limits}, each with 95 % confidence"
        said += f"; {advice(one)}" if advice(one) else ""
        if outcome in counts.values():
            ET.SubElement(case, "failure" if outcome == VIOLATED else "error", type=outcome, message=said)
        ET.SubElement(case, "system-out").text = said
    root = ET.Element("testsuites", {"name": "nlsr check", "tests": str(len(bounds)), **sizes})
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def lines(record: Mapping[str, Any]) -> list[str]:
    """Return what a command prints of a check."""
    rates = [f"{text}: {value} ({interval}; {rows} rows)" for text, value, interval, rows in rate_rows(record)]
    bounds = [
        f"{text}: {outcome}{'; ' + needed if needed else ''}" for text, outcome, _, needed in bound_rows(record)
    ]
    if "second_judge" in record:
        rates.append(agreement_line(record["second_judge"], record["judge"]))
    return [*rates, *(f"note: {_line(note)}" for note in record["notes"]), *bounds, outcome_text(record)]


def _line(text: str) -> str:
    return " ".join(text.split())
