"""The tinyBenchmarks sets, 100 items each: multiple-choice questions, and GSM8K as examples."""

import re
from typing import Any, NamedTuple

from nlsr_jax.data import task_sets
from nlsr_jax.data.examples import Example
from nlsr_jax.data.prompts import Render
from nlsr_jax.data.row_values import BadRow, Row, as_texts, digits


class Question(NamedTuple):
    """A multiple-choice item.

    Attributes:
      question: the question, or the text to continue; a Winogrande sentence keeps its ``_``.
      choices: the possible answers.
      label: index of the correct choice; the first if several are correct.
      right: indices of all correct choices.
      subject: MMLU subject; otherwise empty.
      formatted: the set's own few-shot prompt, if the row has one.
    """

    question: str
    choices: tuple[str, ...]
    label: int
    right: tuple[int, ...]
    subject: str = ""
    formatted: str = ""


def hellaswag(row: Row, _render: Any = None) -> Question:
    """Read ``activity_label``, ``ctx_a``, ``ctx_b``, ``endings`` and ``label`` (a string of digits).

    WikiHow markup is removed from question and endings as the evaluation harnesses do.
    """
    second = row.text("ctx_b", blank=True) if row.has("ctx_b") else ""
    question = f"{row.text('activity_label')}: {row.text('ctx_a')} {second.capitalize()}"
    endings = tuple(clean_wikihow(text) for text in row.texts("endings"))
    return _question(row, clean_wikihow(question), endings, "label", digits("label", row.values.get("label")))


def clean_wikihow(text: str) -> str:
    """Replace WikiHow's title marks with full stops and remove other bracketed marks."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def mmlu(row: Row, _render: Any = None) -> Question:
    """Read ``question``, ``subject``, ``choices`` and ``answer``."""
    choices = row.texts("choices")
    item = _question(row, row.text("question"), choices, "answer", row.integer("answer", range(len(choices))))
    return item._replace(subject=row.text("subject") if row.has("subject") else "")


def truthful_qa(row: Row, _render: Any = None, *, targets: str = "mc1_targets") -> Question:
    """Read ``question``, and the choices and labels of ``mc1_targets`` (or ``mc2_targets``)."""
    answers = row.nested(targets, dict)
    choices, labels = answers.get("choices"), answers.get("labels")
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != len(labels):
        raise BadRow(targets, "does not have lists 'choices' and 'labels' of equal length")
    if any(isinstance(label, bool) or label not in (0, 1) for label in labels) or 1 not in labels:
        raise BadRow(targets, "has labels other than 0 and 1, or no 1")
    right = tuple(i for i, label in enumerate(labels) if label == 1)
    item = _question(row, row.text("question"), as_texts(targets, choices), targets, right[0])
    return item._replace(right=right)


def truthful_qa_mc2(row: Row, _render: Any = None) -> Question:
    """Read ``question``, and the choices and labels of ``mc2_targets``; several may be correct."""
    return truthful_qa(row, targets="mc2_targets")


def winogrande(row: Row, _render: Any = None) -> Question:
    """Read ``sentence`` (with one ``_``), ``option1``, ``option2`` and ``answer`` (``"1"`` or ``"2"``)."""
    sentence = row.text("sentence")
    if sentence.count("_") != 1:
        raise BadRow("sentence", "does not contain exactly one '_'")
    choices = (row.text("option1"), row.text("option2"))
    return _question(row, sentence, choices, "answer", digits("answer", row.values.get("answer")) - 1)


def arc(row: Row, _render: Any = None) -> Question:
    """Read ``question``, ``choices`` (``text`` and ``label``) and ``answerKey``."""
    choices = row.nested("choices", dict)
    texts, names = choices.get("text"), choices.get("label")
    if not isinstance(texts, list) or not isinstance(names, list) or len(texts) != len(names):
        raise BadRow("choices", "does not have lists 'text' and 'label' of equal length")
    answer = row.text("answerKey")
    if answer not in names:
        raise BadRow("answerKey", "does not match any choice")
    return _question(row, row.text("question"), as_texts("choices", texts), "answerKey", names.index(answer))


def gsm8k(row: Row, render: Render) -> Example:
    """Read ``question`` and ``answer``; the set's own few-shot prompt, if any, is kept unchanged."""
    example = task_sets.gsm8k(row, render)
    return example._replace(prompt=row.text("input_formatted")) if row.has("input_formatted") else example


def _question(row: Row, question: str, choices: tuple[str, ...], column: str, label: int) -> Question:
    if not 0 <= label < len(choices):
        raise BadRow(column, "does not match any choice", str(label))
    formatted = row.text("input_formatted") if row.has("input_formatted") else ""
    return Question(question, choices, label, (label,), formatted=formatted)
