"""What README.md and docs/LABORATORY.md quote of the shipped tables is what the commands have written."""

import csv
import json
import re
import statistics

import pyarrow.parquet as pq
import pytest

from nlsr_jax.laboratory.cells import OWN
from nlsr_jax.paper.tables import TABLES
from tests.e2e.command import ROOT

LINES = {
    "none": "aligned, no defense",
    "SafeLoRA, no setting of which keeps FA": "SafeLoRA",
    "VLGuard's mixing": "VLGuard",
    "Lisa": "Lisa",
    "LSSF": "LSSF",
    "RESTA": "RESTA",
    "NLSR as published": "NLSR, as published",
    "NLSR, recommended": "NLSR, recommended",
    "NLSR, strict, which costs FA": "NLSR, strict",
}
"""Lines of the table by their name in README.md."""


SHIPPED = ROOT / "checkpoints" / "tiny-laboratory"
NONE, PUBLISHED, RECOMMENDED, STRICT = (
    "aligned, no defense",
    "NLSR, as published",
    "NLSR, recommended",
    "NLSR, strict",
)


def read(number, folder="tables"):
    with (SHIPPED / folder / f"table_{number}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows():
    return read(1)


def values(rows, line, score):
    return {row["column"]: float(row["mean"]) for row in rows if (row["line"], row["score"]) == (line, score)}


def quoted():
    part = (ROOT / "README.md").read_text().partition("| defense | HS | FA |")[2].partition("\n\n")[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:]]
    return {name: [float(value) for value in numbers] for name, *numbers in found}


def test_every_line_is_quoted():
    assert list(quoted()) == list(LINES)


@pytest.mark.parametrize("name", LINES)
def test_figures_are_those_of_the_table(rows, name):
    means = {score: values(rows, LINES[name], score) for score in ("hs", "fa", "over_refusal", "benign_answered")}
    assert all(len(columns) == 5 for columns in means.values())
    expected = [statistics.mean(columns.values()) for columns in means.values()] + [means["hs"]["30%"]]
    assert quoted()[name] == pytest.approx(expected, abs=0.0501)


def test_who_keeps_fa_is_said(rows):
    keeps = {row["line"]: row["keeps_fa"] == "True" for row in rows}
    assert not keeps["SafeLoRA"]
    assert all(keeps[line] for line in ("LSSF", "RESTA", "NLSR, recommended"))
    assert not keeps["NLSR, strict"]


def lower_hs(rows, ours):
    """Defenses and shares of harmful rows with a lower HS than a line of ours, FA kept."""
    keeps = {row["line"] for row in rows if row["keeps_fa"] == "True" and not row["line"].startswith("NLSR")}
    return {
        (line, column)
        for line in keeps
        for column, value in values(rows, line, "hs").items()
        if value < values(rows, ours, "hs")[column]
        and values(rows, line, "fa")[column] > values(rows, LINES["none"], "fa")[column] - 1
    }


def test_none_has_a_lower_hs_than_the_strict_setting(rows):
    assert not lower_hs(rows, "NLSR, strict")
    lost = (statistics.mean(values(rows, line, "fa").values()) for line in (LINES["none"], "NLSR, strict"))
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    assert f"at {next(lost) - next(lost):.1f} points of FA" in text


def test_lower_hs_is_said_with_its_price(rows):
    lower = lower_hs(rows, "NLSR, recommended")
    expected = {("RepNoise", "1%"), ("RESTA", "1%"), ("LSSF", "1%"), ("RESTA", "5%"), ("LSSF", "5%")}
    assert lower == expected
    answering = {pair: values(rows, pair[0], "benign_answered")[pair[1]] for pair in lower}
    own = values(rows, "NLSR, recommended", "benign_answered")
    assert all(price < own[column] - 15 for (_, column), price in answering.items())
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    for column in ("1%", "5%"):
        found = sorted(round(price) for (_, other), price in answering.items() if other == column)
        assert (
            f"answering {found[0]} to {found[-1]} % of the harmless requests, against {own[column]:.0f} %" in text
        )


def best_of_grid(rows):
    return next(row["line"] for row in rows if row["line"].startswith("best of 60 settings"))


def each(rows, line, score="hs"):
    return " / ".join(f"{value:.1f}" for value in values(rows, line, score).values())


def mean(rows, line, score="hs"):
    return f"{statistics.mean(values(rows, line, score).values()):.1f}"


def documented():
    return re.sub(r"\s+", " ", (ROOT / "docs" / "LABORATORY.md").read_text())


@pytest.mark.parametrize("number", [2, 3, 6, 7])
def test_the_document_quotes_the_columns(number):
    rows, text = read(number), documented()
    assert f"no defense {each(rows, NONE)}; " in text
    assert f"as published {each(rows, PUBLISHED)}; recommended {each(rows, RECOMMENDED)} |" in text


def test_the_document_quotes_the_means(rows):
    text = documented()
    hs, fa = ([mean(rows, line, score) for line in (NONE, PUBLISHED, RECOMMENDED)] for score in ("hs", "fa"))
    assert f"no defense {hs[0]}, as published {hs[1]}, recommended {hs[2]} (mean of five shares)" in text
    assert f"FA {', '.join(fa)}; SafeLoRA {mean(rows, 'SafeLoRA')} |" in text
    assert f"HS {each(rows, STRICT)}, over-refusal {each(rows, STRICT, 'over_refusal')}," in text
    methods = ("random", "magnitude", "Wanda", "low rank (NLSR)", "SNIP", "preference SNIP", "gain")
    quoted = (f"{method.partition(' (')[0]} {mean(read(5), method)}" for method in methods)
    assert f"| {', '.join(quoted)} |" in text


def test_the_document_quotes_other_seeds_and_another_base():
    text, seeds, base, first = documented(), read(13, "other-seeds"), read(13, "other-base"), read(1, "other-base")
    grid = best_of_grid(seeds)
    assert f"recommended {each(seeds, RECOMMENDED)}, best of 60 {each(seeds, grid)}." in text
    scores = [mean(seeds, line, score) for line in (RECOMMENDED, grid) for score in ("hs", "fa", "over_refusal")]
    assert f"recommended {scores[0]} at FA {scores[1]} " in text
    assert f"best of 60 settings {scores[3]} at FA {scores[4]};" in text
    assert f"refuses {scores[5]} % of the harmless requests there, the recommended setting {scores[2]} %." in text
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    assert f"{mean(seeds, NONE)} to {scores[0]}, the grid's best {scores[3]}, refusing {scores[5]} % of" in readme
    answered = [mean(seeds, line, "benign_answered") for line in (grid, RECOMMENDED)]
    assert f"answering {answered[0]} % of them in place of {answered[1]} %." in readme
    assert f"{each(first, NONE)} without a defense, {each(first, PUBLISHED)} as published," in text
    assert f"{each(first, RECOMMENDED)} recommended and {each(first, 'RESTA')} with RESTA;" in text
    answered = [each(first, line, "benign_answered") for line in (RECOMMENDED, "RESTA")]
    assert f"harmless requests are answered in {answered[0]} and {answered[1]} % of the cases." in text
    fa = [mean(first, line, "fa") for line in (STRICT, NONE)]
    assert f"strict setting has {each(first, STRICT)} in table 1, at an FA of {fa[0]} against {fa[1]}." in text
    own, grid = ([mean(base, line, score) for score in ("hs", "fa")] for line in (RECOMMENDED, best_of_grid(base)))
    assert f"has {own[0]} at FA {own[1]}, the best of 60 settings {grid[0]} at FA {grid[1]}." in text


@pytest.mark.parametrize("folder", ["tables", "other-seeds"])
def test_the_automatic_choice_is_near_the_best_of_the_grid(folder):
    rows = read(13, folder)
    own, grid = (
        [statistics.mean(values(rows, line, score).values()) for score in ("hs", "fa")]
        for line in (RECOMMENDED, best_of_grid(rows))
    )
    assert own[0] <= grid[0] + 2
    assert own[1] >= grid[1] - 0.5


def test_what_the_automatic_choice_gives_is_quoted():
    rows = read(13)
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    hs, fa = (
        [mean(rows, line, score) for line in (NONE, RECOMMENDED, best_of_grid(rows))] for score in ("hs", "fa")
    )
    assert f"HS falls from {hs[0]} to {hs[1]} with `--automatic`, FA from {fa[0]} to {fa[1]}" in text
    assert f"has an HS of {hs[2]} and an FA of {fa[2]}" in text


@pytest.mark.parametrize("number", range(1, 15))
def test_every_table_is_there(number):
    folder = ROOT / "checkpoints" / "tiny-laboratory"
    text = (folder / "tables" / f"table_{number}.md").read_text()
    assert text.startswith(f"## Table {number}. ")
    assert f"Table {number}." in (folder / "index.html").read_text()


@pytest.mark.parametrize("number", range(1, 12))
def test_every_figure_is_there(number):
    folder = ROOT / "checkpoints" / "tiny-laboratory"
    assert (folder / "figures" / f"figure_{number}.png").stat().st_size > 10_000
    assert f"Figure {number}." in (folder / "index.html").read_text()


def test_the_rows_behind_the_tables_are_there():
    table = pq.read_table(ROOT / "checkpoints" / "tiny-laboratory" / "rows.parquet").to_pylist()
    found = {
        (row["method"], row["task"], row["poison_ratio"], row["seed"], row["objective"], row["architecture"],
         row["requests"], row["identified_on"], row["settings"]): row
        for row in table
    }  # fmt: skip
    assert len(found) == len(table)
    for number in (1, 2, 3, 4, 6, 7, 8, 12, 13):
        for cell in TABLES[number].cells((5, 6, 7, 8, 9)):
            name = "llama" if cell.architecture == OWN else cell.architecture
            where = (cell.method, cell.task, cell.poison_ratio, cell.seed, cell.objective, name, cell.requests)
            assert (*where, cell.identified_on, json.dumps(dict(cell.settings))) in found, cell
