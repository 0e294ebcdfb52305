"""The shipped tables, and what the documents quote of them."""

import csv
import re
import statistics

from tests.e2e.command import ROOT

SHIPPED = ROOT / "checkpoints" / "tiny-laboratory"
NONE, PUBLISHED, RECOMMENDED, STRICT = (
    "aligned, no defense",
    "NLSR, as published",
    "NLSR, recommended",
    "NLSR, strict",
)
"""Lines of the tables."""


def read(number, folder="tables"):
    """Rows of a shipped table."""
    with (SHIPPED / folder / f"table_{number}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values(rows, line, score="hs"):
    """Means of one line by column."""
    return {row["column"]: float(row["mean"]) for row in rows if (row["line"], row["score"]) == (line, score)}


def mean(rows, line, score="hs"):
    """Mean of one line over its columns."""
    return statistics.mean(values(rows, line, score).values())


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
    return path.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def tables_of_figures(path):
    """The tables of a page that have a cell with a decimal."""
    tables = re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE)
    return [table for table in tables if re.search(r"\| \d+\.\d \|", table)]


def document(path):
    """Text of a page in one line, without its tables of figures."""
    text = path.read_text()
    for table in tables_of_figures(path):
        text = text.replace(table, "")
    return re.sub(r"\s+", " ", text)
