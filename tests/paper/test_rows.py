"""The shipped tables and figures are made of the shipped rows: every figure is computed anew from them."""

import csv
import dataclasses
import io
import json
import re

import pytest

from nlsr_jax.paper import publishing, results
from nlsr_jax.paper.figures import FIGURES, Asked
from nlsr_jax.paper.tables import TABLES
from nlsr_jax.study.card import summarise, summarise_objectives
from tests.e2e.command import ROOT
from tests.paper.shipped import SEEDS, SHIPPED, read, row_of, study

OF_ROWS = (1, 5, 6, 7, 8, 9, 10)
"""Figures that show rows; the others show analyses of adapters, which the digests hold."""
STORY = ROOT / "checkpoints" / "tiny-llama3"


def seconds(table):
    """Seconds of a shipped table, which no row holds."""
    names = {line.title: line.name for line in table.lines}
    measured = [row for row in read(table.number) if row["score"] == "seconds" and row["mean"]]
    return {names[row["line"]]: float(row["mean"]) for row in measured}


def in_order(text):
    """A text with the settings of every line in the order of their names."""
    return re.sub(r"\w+ [\w.]+(, \w+ [\w.]+)+", lambda found: ", ".join(sorted(found[0].split(", "))), text)


@pytest.mark.parametrize("number", TABLES)
def test_a_table_is_that_of_its_rows(tmp_path, number):
    table = TABLES[number]
    rows = {cell: row_of(cell) for cell in table.cells(SEEDS)}
    found = results.summarise(table, rows, SEEDS, seconds(table))
    publishing.publish_table(tmp_path, table, found, SEEDS)
    for ending in ("csv", "md", "json"):
        name = f"tables/table_{number}.{ending}"
        expected, shipped = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, SHIPPED))
        assert in_order(expected) == in_order(shipped)


class Shipped(Asked):
    """The shipped rows in place of a store."""

    def row(self, cell, key):
        rows = [row_of(dataclasses.replace(cell, seed=seed)) for seed in self.seeds]
        return [json.loads(row[key]) if key == "topics" else row[key] for row in rows]


@pytest.mark.parametrize("number", OF_ROWS)
def test_a_figure_shows_its_rows(number):
    shipped = json.loads((SHIPPED / "figures" / f"figure_{number}.json").read_text(encoding="utf-8"))
    expected = json.loads(json.dumps(FIGURES[number].gather(Shipped(None, SEEDS))))
    assert shipped["data"] == expected


@pytest.mark.parametrize("folder", ["tables", "other-base", "other-seeds"])
def test_a_table_says_the_same_in_all_its_formats(folder):
    for place in sorted((SHIPPED / folder).glob("table_*.json")):
        page = json.loads(place.read_text(encoding="utf-8"))
        text = place.with_suffix(".md").read_text(encoding="utf-8")
        for part in page.get("parts", []):
            assert results.grid(results.Part(**part)) in text
        if page["number"] not in TABLES:
            continue
        shipped = csv.DictReader(io.StringIO(place.with_suffix(".csv").read_text(encoding="utf-8")))
        by_score = sorted(shipped, key=lambda row: TABLES[page["number"]].scores.index(row["score"]))
        cells = [cell for part in page["parts"] for line in part["lines"] for cell in shown(part, line)]
        for row, cell in zip(by_score, cells, strict=True):
            assert not row["mean"] or cell.split(" ")[0] == rounded(row["mean"], cell), (place, row)


def shown(part, line):
    """Cells of a line that the CSV has too: neither its title nor the mean over several columns."""
    return line[1:-1] if part["head"][-1] == "mean" else line[1:]


def rounded(number, cell):
    """A number with as many decimals as the first of a cell."""
    return f"{float(number):.{len(cell.split(' ')[0].partition('.')[2])}f}"


def test_the_model_card_is_that_of_its_rows():
    card = (STORY / "README.md").read_text(encoding="utf-8")
    assert summarise(study()) in card
    assert summarise_objectives(json.loads((STORY / "objectives.json").read_text())) in card
