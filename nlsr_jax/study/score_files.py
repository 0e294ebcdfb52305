"""The output of an evaluation: one JSON object, the responses as JSON Lines, and a short table."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlsr_jax.evaluation.judges import Verdicts, unreadable_count
from nlsr_jax.evaluation.texts import count_broken
from nlsr_jax.report.check_tables import agreement_line
from nlsr_jax.study.exam import Exam, Marks, Scores
from nlsr_jax.study.worlds import Answers, Requests

_NAMES = {
    "hs": "harmful requests answered harmfully (HS)",
    "fa": "task rows answered correctly (FA)",
    "over_refusal": "harmless requests refused",
    "benign_answered": "harmless requests answered",
    "odd": "requests neither answered nor refused",
}


def score_fields(scores: Scores) -> dict[str, Any]:
    """Return scores as JSON fields; FA is None without a task."""
    return {**scores._asdict(), "fa": None if math.isnan(scores.fa) else scores.fa}


def count_fields(exam: Exam, marks: Marks, responses: Sequence[str]) -> dict[str, int]:
    """Return the number of prompts of each kind, of unreadable verdicts, and of empty and incoherent answers."""
    asked = len(exam.forbidden.prompts) + len(exam.benign.prompts)
    return {
        "forbidden": len(exam.forbidden.prompts),
        "benign": len(exam.benign.prompts),
        "rows": len(exam.rows),
        "unreadable": unreadable_count(marks.verdicts) if marks.verdicts else 0,
        **count_broken(responses[:asked]),
    }


def response_rows(exam: Exam, responses: Sequence[str], marks: Marks) -> Iterator[dict[str, Any]]:
    """Yield one object per response, in the order of ``exam.prompts()``.

    Fields are ``kind`` (``"forbidden"``, ``"benign"`` or ``"task"``), ``prompt``, ``response`` and ``verdict``
    (``"complied"``, ``"refused"``, ``"odd"`` or ``"unreadable"``; for task rows ``"correct"`` or ``"wrong"``), and
    additionally ``topics`` for requests, ``label`` for task rows, and ``score`` if the judge has one.
    """
    first, second = len(exam.forbidden.prompts), len(exam.forbidden.prompts) + len(exam.benign.prompts)
    yield from _requests("forbidden", exam.forbidden, responses[:first], marks.forbidden, marks.verdicts)
    yield from _requests("benign", exam.benign, responses[first:second], marks.benign, None)
    for row, text, correct in zip(exam.rows, responses[second:], marks.correct, strict=True):
        verdict = "correct" if correct else "wrong"
        yield {"kind": "task", "prompt": row.prompt, "response": text, "verdict": verdict, "label": row.label}


def _requests(
    kind: str, requests: Requests, responses: Sequence[str], answers: Answers, verdicts: Verdicts | None
) -> Iterator[dict[str, Any]]:
    for row, (prompt, text) in enumerate(zip(requests.prompts, responses, strict=True)):
        verdict = next(name for name in Answers._fields if getattr(answers, name)[row])
        if verdicts is not None and verdicts.unreadable[row]:
            verdict = "unreadable"
        fields: dict[str, Any] = {"kind": kind, "prompt": prompt, "response": text, "verdict": verdict}
        fields["topics"] = list(requests.topics[row])
        if verdicts is not None and math.isfinite(verdicts.scores[row]):
            fields["score"] = float(verdicts.scores[row])
        yield fields


def dump_rows(rows: Iterator[dict[str, Any]]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def print_table(record: Mapping[str, Any], console: Any = None) -> None:
    """Print the scores of an evaluation.

    Args:
      record: the fields of the JSON object.
      console: a ``rich.console.Console``; standard output by default.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("", "%", title=f"{record['adapter'] or record['base']}, judged by {record['judge']}")
    table.columns[1].justify = "right"
    for name, text in _NAMES.items():
        if record[name] is not None:
            table.add_row(text, f"{record[name]:.1f}")
    for name, guess in record.get("tiny_benchmarks", {}).items():
        table.add_row(f"{name} (gp-IRT; {100 * guess['measured']:.1f} measured)", f"{100 * guess['gp_irt']:.1f}")
    console = console or Console(highlight=False)
    console.print(table)
    if "second_judge" in record:
        console.print(agreement_line(record["second_judge"], record["judge"]))
    if record["counts"]["unreadable"]:
        total = record["counts"]["forbidden"]
        console.print(f"{record['counts']['unreadable']} of {total} verdicts were unreadable and count as harmless")
