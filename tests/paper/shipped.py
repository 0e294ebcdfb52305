"""The shipped tables, and what the documents quote of them."""

import csv
import functools
import json
import pathlib
import re
import statistics

import pyarrow.parquet as pq

from nlsr_jax.sweep.cells import OWN
from tests.e2e.command import ROOT

SHIPPED = ROOT / "checkpoints" / "tiny-laboratory"
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
STARTED = ROOT / "docs" / "guide" / "getting-started.md"
SCORES = ("hs", "fa", "over_refusal", "benign_answered")
NONE, PUBLISHED, AUTOMATIC, STRICT, REFINED = (
    "aligned, no defense",
    "NLSR, as published",
    "NLSR, automatic",
    "NLSR, strict",
    "NLSR, refined (the default)",
)
"""Lines of the tables."""
SEEDS = (5, 6, 7, 8, 9)
"""Seeds of the shipped tables and figures."""
ALTERED: dict[pathlib.Path, str] = {}
"""Texts of pages as ``test_alterations`` alters them, in place of the files."""


def page(path):
    """Text of a page."""
    return ALTERED.get(path) or path.read_text(encoding="utf-8")


@functools.cache
def read(number, folder="tables"):
    """Rows of a shipped table."""
    with (SHIPPED / folder / f"table_{number}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def data(number):
    """Data of a shipped figure."""
    return json.loads((SHIPPED / "figures" / f"figure_{number}.json").read_text())["data"]


@functools.cache
def study():
    """Rows of the tiny study."""
    return json.loads((ROOT / "checkpoints" / "tiny-llama3" / "table.json").read_text())


@functools.cache
def shipped_rows():
    """Rows of the shipped cells by what they are of."""
    names = ("method", "task", "poison_ratio", "seed", "objective", "architecture", "requests", "identified_on")
    table = pq.read_table(SHIPPED / "rows.parquet").to_pylist()
    found = {(*(row[name] for name in names), row["settings"]): row for row in table}
    assert len(found) == len(table)
    return found


def row_of(cell):
    """Row of a cell; raises KeyError where none is shipped."""
    name = "llama" if cell.architecture == OWN else cell.architecture
    where = (cell.method, cell.task, cell.poison_ratio, cell.seed, cell.objective, name, cell.requests)
    return shipped_rows()[*where, cell.identified_on, json.dumps(dict(cell.settings))]


def values(rows, line, score="hs"):
    """Means of one line by column."""
    return {row["column"]: float(row["mean"]) for row in rows if (row["line"], row["score"]) == (line, score)}


def mean(rows, line, score="hs"):
    """Mean of one line over its columns."""
    return statistics.mean(values(rows, line, score).values())


def figures(*numbers, digits=1):
    """Numbers as a page shows them."""
    return [f"{number:.{digits}f}" for number in numbers]


def means(rows, line, scores=SCORES):
    """Means of one line over its columns, as a page shows them."""
    return figures(*(mean(rows, line, score) for score in scores))


def best_of_grid(rows):
    """Name of table 13's line of the grid."""
    return next(row["line"] for row in rows if row["line"].startswith("best of 60 settings"))


def table_of(text, head):
    """Cells of the first table of a text whose head begins so, the head left out."""
    _, found, rest = text.partition(head)
    assert found, head
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def section(path, title):
    """Text of a page from one heading to the next."""
    return page(path).partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def tables_of_figures(path):
    """The tables of a page that have a cell with a decimal."""
    tables = re.findall(r"(?:^\|.*\n)+", page(path), re.MULTILINE)
    return [
        table
        for table in tables
        if re.search(r"\| [-+]?\d+\.\d+( ± [\d.]+)?( \([-+]?[\d.]+\)| [a-zA-Z]+)? \|", table)
    ]


def document(path):
    """Text of a page in one line, without its tables of figures."""
    text = page(path)
    for table in tables_of_figures(path):
        text = text.replace(table, "")
    return re.sub(r"\s+", " ", text)


def unchecked(path, claims, settings, names):
    """Figures of a page outside its tables of figures that nothing accounts for, with the words around them.

    Args:
      path: the page.
      claims: sentences made from the rows; each must stand on the page once.
      settings: phrases with figures that no row holds.
      names: regular expression of names with figures in them.
    """
    text = document(path)
    for claim in map(str.strip, claims):
        assert text.count(claim) == 1, claim
        text = text.replace(claim, "")
    for setting in settings:
        assert setting in text, setting
        text = text.replace(setting, "")
    return re.findall(r"\S* \S*\d\S* \S*", re.sub(names, "", text))
