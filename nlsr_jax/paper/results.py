"""Compute the scores of a table from the rows of its cells: means over seeds, and each defense's best setting."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.paper.tables import KEPT, SCORE_NAMES, Line, Table
from nlsr_jax.study.defending import DEFENSES
from nlsr_jax.sweep.cells import Cell

OWN = ("nlsr", "nlsr gain", "nlsr recommended", "nlsr strict", "nlsr refined")
"""The lines of NLSR that should be on the frontier."""
Rows = Mapping[Cell, Mapping[str, Any]]


class Value(NamedTuple):
    """Mean and standard deviation over the seeds, per cent; NaN if nothing was measured."""

    mean: float
    spread: float


class Result(NamedTuple):
    """A line of a table with its scores.

    Attributes:
      line: the line of the table.
      option: description of the selected setting.
      keeps: whether it keeps FA; see ``Line``.
      values: by score, one value per column.
      seeds: by score, ``[columns, seeds]``.
      options: the same for each setting of the line.
    """

    line: Line
    option: str
    keeps: bool
    values: dict[str, tuple[Value, ...]]
    seeds: dict[str, np.ndarray]
    options: dict[str, dict[str, np.ndarray]]


def _collect(cells: Sequence[Cell], rows: Rows, seeds: Sequence[int], score: str) -> np.ndarray:
    return np.array([[rows[dataclasses.replace(cell, seed=seed)][score] for seed in seeds] for cell in cells])


def summarise(
    table: Table, rows: Rows, seeds: Sequence[int], seconds: Mapping[str, float] | None = None
) -> list[Result]:
    """Return the results of a table's lines.

    Args:
      table: the table.
      rows: rows of all its cells.
      seeds: the seeds averaged over.
      seconds: run times by line, for a table that shows them.
    """
    measured = [score for score in table.scores if score != "seconds"]
    bare = next(line for line in table.lines if line.name == "finetuned")
    kept = _collect(bare.options[""], rows, seeds, "fa").mean() - KEPT
    results = []
    for line in table.lines:
        options: list[tuple] = []
        for words, cells in line.options.items():
            found = {score: _collect(cells, rows, seeds, score) for score in measured}
            keeps = bool(found["fa"].mean() >= kept)
            rank = (not keeps, found["hs"].mean() if keeps else -found["fa"].mean())
            options.append((rank, len(options), words, keeps, found))
        _, _, words, keeps, found = min(options)
        values = {
            score: tuple(Value(float(column.mean()), float(column.std())) for column in columns)
            for score, columns in found.items()
        }
        if "seconds" in table.scores:
            values["seconds"] = (Value((seconds or {}).get(line.name, float("nan")), 0.0),)
        every = {option[2]: option[4] for option in options}
        results.append(Result(line, words, keeps, values, found, every))
    return results


class Better(NamedTuple):
    """A defense with lower HS in a column.

    Attributes:
      title: title of the defense, with its setting.
      column: the column.
      refused, own_refused: refused harmless requests of the defense and of the line it is compared with, per cent.
      answered, own_answered: answered harmless requests; some are neither answered nor refused.
    """

    title: str
    column: str
    refused: float
    own_refused: float
    answered: float
    own_answered: float

    @property
    def dearer(self) -> bool:
        """Return whether it handles harmless requests worse."""
        return self.refused > self.own_refused or self.answered < self.own_answered


def frontier(table: Table, results: Sequence[Result], name: str) -> list[Better]:
    """List the defenses with lower HS than a given line, per column, if they keep FA within ``KEPT`` of no defense.

    All settings of all defenses are considered, separately for each column.

    Args:
      table: the table.
      results: its results.
      name: name of the line that should be on the frontier.
    """
    by_name = {result.line.name: result for result in results}
    own, bare = by_name[name].seeds, by_name["finetuned"].seeds["fa"].mean(1)
    found = []
    for result in results:
        if not _is_defense(result.line):
            continue
        for words, scores in result.options.items():
            better = (scores["fa"].mean(1) >= bare - KEPT) & (scores["hs"].mean(1) < own["hs"].mean(1))
            title = result.line.title + (f" ({words})" if words else "")
            costs = [x[score].mean(1) for score in ("over_refusal", "benign_answered") for x in (scores, own)]
            found += [
                Better(title, table.columns[i], *(float(cost[i]) for cost in costs)) for i in np.flatnonzero(better)
            ]
    return found


def _is_defense(line: Line) -> bool:
    """Return whether a line is a defense other than NLSR."""
    return all(
        cell.method in DEFENSES and cell.method != "nonaligned" for cells in line.options.values() for cell in cells
    )


class Part(NamedTuple):
    """One score of a table as text: the header, and a row for each line of the table."""

    head: list[str]
    lines: list[list[str]]


def note(table: Table, results: Sequence[Result], seeds: Sequence[int]) -> str:
    """Return the note above a table."""
    listed = ", ".join(map(str, seeds))
    text = f"Per cent, mean ± standard deviation over seeds {listed}; in brackets the paper's. "
    if any(len(line.options) > 1 for line in table.lines):
        text += (
            f"Of several settings of a defense the one of least HS that keeps FA within {KEPT:g} of no defense. "
        )
    if not all(result.keeps for result in results):
        text += f"* marks lines whose mean FA is more than {KEPT:g} below no defense. "
    return (text + table.note).strip()


def parts(table: Table, results: Sequence[Result]) -> list[Part]:
    """Return the parts of a table, one per score: ours as mean ± spread, the paper's in brackets."""
    many = len(table.columns) > 1
    found = []
    for score in table.scores:
        head = [SCORE_NAMES[score], *(table.columns if score != "seconds" else ("",)), *(["mean"] if many else [])]
        found.append(Part(head, [_line(table, result, score, many) for result in results]))
    return found


def markdown(table: Table, results: Sequence[Result], seeds: Sequence[int]) -> str:
    """Return a table as Markdown."""
    text = f"## Table {table.number}. {table.title}\n\n{note(table, results, seeds)}\n"
    for part in parts(table, results):
        text += "\n" + grid(part)
    return text + (f"\n{verdict}\n" if (verdict := describe_frontier(table, results)) else "")


def grid(part: Part) -> str:
    """Return a part as a Markdown table."""
    lines = (part.head, ["---"] * len(part.head), *part.lines)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def describe_frontier(table: Table, results: Sequence[Result]) -> str:
    """Describe which defenses beat NLSR, and at what cost; empty for a table without other defenses."""
    if not any(_is_defense(line) for line in table.lines):
        return ""
    sentences = []
    for line in table.lines:
        if line.name in OWN:
            better = frontier(table, results, line.name)
            dearer = [one for one in better if one.dearer]
            cheap = "; ".join(f"{one.title} at {one.column}" for one in better if not one.dearer)
            words = cheap or "none, at any of its settings, in any column"
            sentences.append(
                f"Of lower HS than {line.title}, with FA within {KEPT:g} of no defense, refusing no more and "
                f"answering no fewer of the harmless requests: {words}."
            )
            if dearer:
                words = "; ".join(
                    f"{one.title} at {one.column} ({one.refused:.1f} against {one.own_refused:.1f} refused, "
                    f"{one.answered:.1f} against {one.own_answered:.1f} answered)"
                    for one in dearer
                )
                sentences.append(f"Of lower HS at the price of harmless requests: {words}.")
    return " ".join(sentences)


def _line(table: Table, result: Result, score: str, many: bool) -> list[str]:
    paper = table.paper.get(result.line.name, {}).get(score, ())
    values = result.values[score]
    published = [*paper, *[None] * (len(values) - len(paper))]
    cells = [_words(value, other, score) for value, other in zip(values, published, strict=True)]
    if many:
        mean = float(np.mean([value.mean for value in values]))
        known = [x for x in published if x is not None]
        cells.append(f"{mean:.1f}" + (f" ({np.mean(known):.1f})" if known and len(known) == len(published) else ""))
    title = result.line.title + (f" ({result.option})" if result.option else "")
    return [title + ("" if result.keeps else " *"), *cells]


def _words(value: Value, published: float | None, score: str) -> str:
    if np.isnan(value.mean):
        return "" if published is None else f"({published:.1f})"
    ours = f"{value.mean:.2f}" if score == "seconds" else f"{value.mean:.1f} ± {value.spread:.1f}"
    return ours if published is None else f"{ours} ({published:.1f})"


def comma_separated(table: Table, results: Sequence[Result]) -> str:
    """Return a table as CSV: one row per line of the table, score and column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "line", "setting", "keeps_fa", "score", "column", "mean", "spread", "paper"])
    for result in results:
        for score, values in result.values.items():
            paper = table.paper.get(result.line.name, {}).get(score, ())
            heads = table.columns if score != "seconds" else ("",)
            for i, (head, value) in enumerate(zip(heads, values, strict=True)):
                published = paper[i] if i < len(paper) and paper[i] is not None else ""
                numbers = ["" if np.isnan(x) else f"{x:.4f}" for x in value]
                writer.writerow(
                    [table.number, result.line.title, result.option, result.keeps, score, head, *numbers, published]
                )
    return file.getvalue()
