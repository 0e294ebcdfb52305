"""What README.md quotes of table 1 is what the command has written."""

import csv
import re
import statistics

import pytest

from tests.e2e.command import ROOT

LINES = {
    "none": "aligned, no defense",
    "SafeLoRA, no setting of which keeps FA": "SafeLoRA",
    "VLGuard's mixing": "VLGuard",
    "Lisa": "Lisa",
    "LSSF": "LSSF",
    "RESTA": "RESTA",
    "NLSR as published": "NLSR, as published",
    "NLSR, `--automatic`": "NLSR, automatic",
}
"""Lines of the table by their name in README.md."""


@pytest.fixture(scope="module")
def rows():
    with (ROOT / "checkpoints" / "tiny-laboratory" / "tables" / "table_1.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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
    means = {score: values(rows, LINES[name], score) for score in ("hs", "fa", "over_refusal")}
    assert all(len(columns) == 5 for columns in means.values())
    expected = [statistics.mean(columns.values()) for columns in means.values()] + [means["hs"]["30%"]]
    assert quoted()[name] == pytest.approx(expected, abs=0.0501)


def test_who_keeps_fa_is_said(rows):
    keeps = {row["line"]: row["keeps_fa"] == "True" for row in rows}
    assert not keeps["SafeLoRA"]
    assert all(keeps[line] for line in ("LSSF", "RESTA", "NLSR, automatic"))


def test_lower_hs_is_said_with_its_price(rows):
    ours = values(rows, "NLSR, automatic", "hs")
    keeps = {row["line"] for row in rows if row["keeps_fa"] == "True" and not row["line"].startswith("NLSR")}
    lower = {
        (line, column)
        for line in keeps
        for column, value in values(rows, line, "hs").items()
        if value < ours[column] and values(rows, line, "fa")[column] > values(rows, LINES["none"], "fa")[column] - 1
    }
    expected = {("RepNoise", "1%"), ("RESTA", "1%"), ("LSSF", "1%"), ("RESTA", "5%"), ("LSSF", "5%")}
    assert lower == expected
    refusing = {pair: values(rows, pair[0], "over_refusal")[pair[1]] for pair in lower}
    own = values(rows, "NLSR, automatic", "over_refusal")
    assert all(price > own[column] for (_, column), price in refusing.items())
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    assert "refusing 21 to 34 % of the harmless requests" in text
    first = sorted(round(price) for (_, column), price in refusing.items() if column == "1%")
    assert (first[0], first[-1]) == (21, 34)


def test_the_automatic_choice_is_near_the_best_of_the_grid():
    with (ROOT / "checkpoints" / "tiny-laboratory" / "tables" / "table_13.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = {row["line"] for row in rows}
    grid = next(line for line in lines if line.startswith("best of 60 settings"))
    means = {
        (line, score): statistics.mean(values(rows, line, score).values())
        for line in (LINES["none"], "NLSR, automatic", grid)
        for score in ("hs", "fa")
    }
    assert means["NLSR, automatic", "hs"] <= means[grid, "hs"] + 2
    assert means["NLSR, automatic", "fa"] >= means[grid, "fa"] - 0.5
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    hs = [f"{means[line, 'hs']:.1f}" for line in (LINES["none"], "NLSR, automatic", grid)]
    fa = [f"{means[line, 'fa']:.1f}" for line in (LINES["none"], "NLSR, automatic", grid)]
    assert f"HS falls from {hs[0]} to {hs[1]} with `--automatic`, FA from {fa[0]} to {fa[1]}" in text
    assert f"has an HS of {hs[2]} and an FA of {fa[2]}" in text
