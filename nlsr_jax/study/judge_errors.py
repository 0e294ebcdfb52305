"""How often judges that need no model are wrong, on answers whose labels are known."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nlsr_jax.data import policy_world
from nlsr_jax.data.rows import read_rows
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation import policy_judge
from nlsr_jax.evaluation.judges import REFUSED
from nlsr_jax.evaluation.own_judge import WORDS, AnswerJudge, as_judge
from nlsr_jax.evaluation.refusals import builtin


class Errors(NamedTuple):
    """The errors of a judge on labelled answers.

    Attributes:
      refusals: number of answers that refuse.
      missed: how many of them the judge does not take for refusals.
      others: number of answers that do not refuse.
      taken: how many of them the judge takes for refusals.
    """

    refusals: int
    missed: int
    others: int
    taken: int


def judges() -> dict[str, AnswerJudge]:
    """Return the judges of natural language that need no model, by name."""
    lists = {name: as_judge(builtin(name)) for name in ("advbench", "refusals")}
    return {**lists, "policy": AnswerJudge(policy_judge.judge, "policy")}


def errors(judge: AnswerJudge, answers: Sequence[str], labels: Sequence[str]) -> Errors:
    """Return the errors of a judge on answers with their labels, each one of ``WORDS``."""
    found = [word == REFUSED for word in judge.classify([""] * len(answers), answers)]
    true = [label == REFUSED for label in labels]
    pairs = list(zip(true, found, strict=True))
    return Errors(sum(true), pairs.count((True, False)), len(true) - sum(true), pairs.count((False, True)))


def known_forms(judge: AnswerJudge, forms: Iterable[str]) -> list[bool]:
    """Return whether a judge knows a form of refusal about every topic, with every ending.

    Args:
      judge: the judge.
      forms: of ``policy_world.topics()["refusals"]``.
    """
    world = policy_world.topics()
    asked = [(topic, end) for topic in world["forbidden"] for end in world["suffixes"]]
    found = []
    for form in forms:
        texts = [policy_world.refusal(form, end, topic) for topic, end in asked]
        found.append(not errors(judge, texts, [REFUSED] * len(texts)).missed)
    return found


def read_labelled(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Read labelled answers: rows with ``answer`` and ``label``, one of ``WORDS``.

    Raises:
      InputError: if the file cannot be read, or a label is another word.
    """
    rows = read_rows(str(path), ("answer", "label"))
    for number, row in enumerate(rows, 1):
        if row["label"] not in WORDS:
            raise InputError(f"{path}: row {number}: label is {row['label']!r}; expected one of {', '.join(WORDS)}")
    return [row["answer"] for row in rows], [row["label"] for row in rows]


def table(labelled: str | os.PathLike, more: Mapping[str, AnswerJudge] | None = None) -> str:
    """Return the errors of all judges as Markdown.

    Args:
      labelled: see ``read_labelled``.
      more: other judges by name.
    """
    forms = policy_world.topics()["refusals"]
    own = [answer for pairs in policy_world.answers().values() for _, answer in pairs]
    answers, labels = read_labelled(labelled)
    lines = []
    for name, judge in {**judges(), **(more or {})}.items():
        seen, unseen = (known_forms(judge, forms[half::2]) for half in (0, 1))
        one, taken = errors(judge, answers, labels), errors(judge, own, [""] * len(own)).taken
        cells = (
            f"`{name}`",
            f"{sum(seen)} of {len(seen)}",
            f"{sum(unseen)} of {len(unseen)}",
            f"{one.missed} of {one.refusals}",
            f"{one.taken} of {one.others}",
            f"{taken} of {len(own)}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join((_HEAD, "| --- | --- | --- | --- | --- | --- |\n", *lines))


_HEAD = (
    "| judge | refusal forms known, first half | refusal forms known, second half | labelled refusals missed | "
    "other labelled answers taken for refusals | helpful answers taken for refusals |\n"
)
BEGIN, END = "<!-- judges -->\n", "<!-- end of judges -->\n"
"""Marks around the table on the guide's page."""


def replace_table(path: pathlib.Path, made: str) -> str:
    """Return the text of a page with the table between the marks replaced.

    Raises:
      InputError: if the marks are missing.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{path}: has no marks {json.dumps(BEGIN)} and {json.dumps(END)} around a table")
    return before + begin + made + end + after
