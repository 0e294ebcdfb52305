"""Data sets of the user's: tasks with named columns and labels, and rows for the parts of a study.

A *task* is a file of prompts with labels or answers. A *role* is what a study needs beside the task: safe answers,
preferences, harmful answers, and requests for the evaluation. Their files are read in any shape that
``nlsr_jax.data.answered`` and ``nlsr_jax.data.asked`` read.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nlsr_jax.data.answered import read_answered_rows
from nlsr_jax.data.asked import read_asked_rows
from nlsr_jax.data.collecting import Loaded
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.places import open_rows
from nlsr_jax.data.prompts import Render
from nlsr_jax.data.row_shapes import PROMPTS, RESPONSES
from nlsr_jax.data.row_values import BadRow, Row, describe_columns, short
from nlsr_jax.data.rows import Note, no_note
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

LABEL, EXACT, NUMBER = "label", "exact", "number"
SCORINGS = (LABEL, EXACT, NUMBER)
"""How an answer is compared with the true one: the label that it names first, the whole text, the last number."""


@dataclasses.dataclass(frozen=True)
class OwnTask:
    """A fine-tuning task of the user's.

    Attributes:
      name: of the task, the name of its data set.
      prompt_field: column of the prompts; None for the one to be found.
      response_field: column of the answers, for a task without labels; None for the one to be found.
      label_field: column of the labels, for a classification.
      labels: the words that stand for labels: ``"negative"``, in the order of whole numbers from 0, or
        ``"0=negative"``, for any value of the column.
      instruction: put before every prompt.
      scoring: one of ``SCORINGS``; None for ``"label"`` with labels and ``"exact"`` without.
    """

    name: str
    prompt_field: str | None = None
    response_field: str | None = None
    label_field: str | None = None
    labels: tuple[str, ...] = ()
    instruction: str = ""
    scoring: str | None = None

    @property
    def scored_by(self) -> str:
        """The scoring."""
        return self.scoring or (LABEL if self.label_field or self.labels else EXACT)

    def words(self) -> dict[str, str]:
        """Return the words by the value of the label column, as text."""
        if any("=" in label for label in self.labels):
            pairs = [label.partition("=") for label in self.labels]
            return {value.strip(): word.strip() for value, _, word in pairs}
        return {str(number): word for number, word in enumerate(self.labels)}

    def convert(self, row: Row, render: Render) -> Example:
        """Make an example from a row."""
        prompt = row.text(self.prompt_field or _only(row, PROMPTS, "a prompt", "prompt_field"))
        text = render(self.instruction, prompt) if self.instruction else render(prompt, "")
        if self.scored_by == LABEL:
            word = self._word(row, self.label_field or "label")
            return Example(text, word, label=word)
        response = row.text(self.response_field or _only(row, RESPONSES, "an answer", "response_field"))
        return Example(text, response, label=response)

    def _word(self, row: Row, column: str) -> str:
        """Return the word of a row's label."""
        if not row.has(column):
            raise BadRow(column, "is missing", describe_columns(row.values))
        value, words = row.values[column], self.words()
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else None
        if text is not None and text in words:
            return words[text]
        if isinstance(value, str) and text and (not words or text in words.values()):
            return text
        expected = f"one of {', '.join([*words, *words.values()])}" if words else "text; name words with labels"
        raise BadRow(column, f"is not {expected}", short(value))


def _only(row: Row, names: tuple[str, ...], what: str, flag: str) -> str:
    found = [name for name in names if row.has(name)]
    if len(found) != 1:
        which = f"{' and '.join(map(repr, found))} may each hold" if found else "no column holds"
        raise BadRow("", f"{which} {what}; name it with --{flag}", describe_columns(row.values))
    return found[0]


def check_task(task: OwnTask, where: str = "") -> None:
    """Check a task before a row is read.

    Args:
      task: the task.
      where: put before the message, such as the file that describes it.

    Raises:
      InputError: naming the field that cannot be used.
    """
    for name in ("prompt_field", "response_field", "label_field"):
        if getattr(task, name) == "":
            raise InputError(f"{where}{name} is empty; give the name of a column, or leave it out")
    if task.scoring not in (None, *SCORINGS):
        raise InputError(f"{where}scoring is {task.scoring!r}; expected one of {', '.join(SCORINGS)}")
    if task.scored_by != LABEL and task.labels:
        raise InputError(f"{where}labels are of scoring label; scoring is {task.scoring}")
    if task.label_field and task.response_field:
        raise InputError(f"{where}label_field and response_field are both given; a task has labels or answers")
    pairs = [label for label in task.labels if "=" in label]
    if pairs and len(pairs) < len(task.labels):
        raise InputError(f"{where}labels mix words and value=word; write all of them alike")
    words = list(task.words().values())
    if len(set(words)) < len(words) or not all(words) or len(words) == 1:
        raise InputError(f"{where}labels are {', '.join(task.labels)!r}; expected at least two different words")


class Role(NamedTuple):
    """What a study reads beside the task.

    Attributes:
      kind: of its examples.
      trains: whether rows are for training; else they are for the evaluation.
      answered: whether answers are read.
      paired: whether rejected answers are read too.
      marked: whether rows that mark their answer as unsafe are left out.
    """

    kind: str
    trains: bool
    answered: bool = True
    paired: bool = False
    marked: bool = True


ROLES: dict[str, Role] = {
    "safe": Role("safe", trains=True),
    "preferences": Role("safe", trains=True, paired=True),
    "harmful": Role("harmful", trains=True, marked=False),
    "calibration": Role("safe", trains=True),
    "harmless": Role("benign", trains=True, answered=False),
    "forbidden": Role("harmful", trains=False, answered=False),
    "benign": Role("benign", trains=False, answered=False),
}
"""Roles by the name under which their rows are given."""
_TOPICS = ("category", "topic", "semantic_category")


def load_role(
    name: str,
    source: str,
    *,
    split: str,
    count: int | None = None,
    template: str = "none",
    tokenizer: Tokenizer | None = None,
    note: Note = no_note,
) -> Loaded:
    """Load the first rows of a role, in file order.

    Args:
      name: one of ``ROLES``.
      source: see ``open_rows``.
      split: the split to read.
      count: number of rows to take; None for all.
      template: how prompts are rendered.
      tokenizer: a transformers tokenizer, required by chat templates.
      note: called with one line about the columns that are read.

    Returns:
      A ``Loaded`` of ``Example``, or of ``Preference`` where the role is paired.

    Raises:
      InputError: if the rows cannot be read or are too few.
    """
    role, rows = ROLES[name], open_rows(source, split)
    found = (
        _answered(role, source, rows, template, tokenizer, note, count)
        if role.answered
        else (_asked(role, source, rows, template, tokenizer, note, count))
    )
    if count is not None and len(found) < count:
        raise InputError(f"{source}: {count} rows requested, but only {len(found)} are usable; request fewer")
    return Loaded(found, {"rows": len(found), "used": len(found), "skipped": {}})


def _asked(role: Role, source: str, rows: Iterator[Row], template, tokenizer, note: Note, count) -> list[Example]:
    """Return requests without answers."""
    taken = list(itertools.islice(rows, count))
    pairs = ((_where(row, source), row.values) for row in taken)
    texts = [row.prompt for row in read_asked_rows(source, pairs, tokenizer, template=template, note=note)]
    topics = [_topics(row.values) for row in taken]
    return [Example(text, "", role.kind, categories=found) for text, found in zip(texts, topics, strict=True)]


def _answered(
    role: Role, source: str, rows: Iterator[Row], template, tokenizer, note: Note, count
) -> list[Example] | list[Preference]:
    """Return examples, or preferences where the role is paired."""
    options: dict = {"template": template, "preference": role.paired, "marked": role.marked, "note": note}
    pairs = ((_where(row, source), row.values) for row in rows)
    found = read_answered_rows(source, pairs, tokenizer, count=count, **options).rows
    if role.paired:
        return [Preference(*row) for row in found]
    return [Example(row.prompt, row.response, role.kind) for row in found]


def _where(row: Row, source: str) -> str:
    return row.where.removeprefix(f"{source}: ")


def _topics(values: object) -> tuple[str, ...]:
    """Return the topics of a request, where a column has them."""
    columns: Mapping = values if isinstance(values, Mapping) else {}
    found = next((columns[name] for name in _TOPICS if name in columns), ())
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(text for text in texts if isinstance(text, str) and text)
