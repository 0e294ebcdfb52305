"""Examine the models of a study once, and keep what they answer."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from nlsr_jax.study.bench import Bench
from nlsr_jax.study.case import Case
from nlsr_jax.study.exam import Exam, Marks, make_exam, mark
from nlsr_jax.study.workshop import Made, Workshop
from nlsr_jax.training.folder import write_whole


class Exams:
    """Examines models; one that several situations share is examined once.

    Args:
      workshop: what situations share.
      folder: where answers are kept, in one file a row; None to keep none.
    """

    def __init__(self, workshop: Workshop, folder: pathlib.Path | None = None):
        self.workshop, self._folder = workshop, folder
        self._case: Case | None = None
        self._found: dict[tuple[int, int], tuple[Made, dict[str, Any], list[dict[str, str]]]] = {}

    def row(self, made: Made, case: Case, name: str) -> dict[str, Any]:
        """Return the row of a model, and keep its answers under the name of a cell."""
        if self._case != case:
            self._case, self._found = case, {}
        model = (id(made.base.params), id(made.adapter))
        if model not in self._found:
            self._found[model] = (made, *self._examined(made, case))
        _, row, answers = self._found[model]
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
            write_whole(self._folder / f"{name}.jsonl", lines.encode())
        return row

    def _examined(self, made: Made, case: Case) -> tuple[dict[str, Any], list[dict[str, str]]]:
        world, asked = self.workshop.world, self.workshop.config.exam
        exam = make_exam(world, case.task, forbidden=asked.forbidden, benign=asked.benign, rows=asked.rows)
        bench = Bench(made.base, world, self.workshop.config, case, exam)
        found = bench.outcome("", [made.adapter], made.seconds)
        return found.row, transcript(exam, mark(world, exam, found.responses), found.responses)


def transcript(exam: Exam, marks: Marks, responses: Sequence[str]) -> list[dict[str, str]]:
    """Return the questions of an exam with their answers and the verdicts on them; task rows are left out.

    Args:
      exam: the prompts.
      marks: their marks.
      responses: in the order of ``exam.prompts()``.
    """
    found: list[dict[str, str]] = []
    for kind, asked, answers in (
        ("forbidden", exam.forbidden, marks.forbidden),
        ("benign", exam.benign, marks.benign),
    ):
        for row, question in enumerate(asked.questions):
            verdict = next(name for name in ("complied", "refused", "odd") if getattr(answers, name)[row])
            answer = responses[len(found)]
            found.append({"kind": kind, "question": question, "answer": answer, "verdict": verdict})
    return found
