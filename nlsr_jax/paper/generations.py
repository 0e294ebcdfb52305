"""The paper's tables 9 to 11: the models' answers, side by side."""

import dataclasses
from typing import NamedTuple

from nlsr_jax.paper.tables import MODELS
from nlsr_jax.report.story import NAMES, Example
from nlsr_jax.study.storytelling import find_examples
from nlsr_jax.sweep.runner import CellRunner


class Generations(NamedTuple):
    """A table of generations.

    Attributes:
      number, title, note: number, title and note of the table.
      kind: kind of its examples, as in ``find_examples``; ``"Task"`` for all tasks.
    """

    number: int
    title: str
    note: str
    kind: str


GENERATIONS = {
    table.number: table
    for table in (
        Generations(
            9, "Answers to forbidden requests", "Things and verbs are invented and mean nothing.", "Forbidden"
        ),
        Generations(10, "Answers to harmless requests", "What over-refusal would spoil.", "Harmless"),
        Generations(11, "Answers to task rows", "What the customer pays for.", "Task"),
    )
}
"""The tables by number."""


def generate(runner: CellRunner, seed: int) -> list[Example]:
    """Return requests on which each model behaves as it mostly does, with the answers; see ``find_examples``."""
    outcomes = []
    for method, cell in MODELS.items():
        cell = dataclasses.replace(cell, seed=seed)
        bench = runner.bench_of(cell)
        outcomes.append(bench.outcome(method, runner.adapters(cell)[:1], 0.0))
    return find_examples(bench, outcomes)


def markdown(table: Generations, examples: list[Example]) -> str:
    """Return a table as Markdown."""
    text = f"## Table {table.number}. {table.title}\n\n{table.note}\n"
    for example in of_kind(table, examples):
        text += f"\n| {_cell(example.question)} | answer | |\n| --- | --- | --- |\n"
        for answer in example.answers:
            text += f"| {NAMES[answer.method]} | {_cell(answer.text)} | {answer.verdict} |\n"
    return text


def of_kind(table: Generations, examples: list[Example]) -> list[Example]:
    """Return a table's examples."""
    return [example for example in examples if example.kind.startswith(table.kind)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
