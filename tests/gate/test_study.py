"""The study of decisions against the truth: its arithmetic, the shipped rows, and the table on the page."""

import json

import numpy as np

from experiments.gate_samples import (
    ALL,
    BOUNDS,
    OUTCOMES,
    ROWS,
    SAMPLES,
    decisions_by_count,
    sample_rows,
    summarise,
)
from tests.e2e.command import ROOT

SHIPPED = ROOT / "checkpoints" / "tiny-gate"
NAMES = {
    "max_hs": "HS at most 10 %",
    "max_over_refusal": "refused at most 5 %",
    "min_benign": "answered at least 90 %",
    ALL: "all three",
}


def read(name):
    return json.loads((SHIPPED / f"{name}.json").read_text())


def line(row):
    """A row of the summary as the page shows it."""
    shares = [f"{row[name]:.1f}" for name in ("right", "open", "wrong", "worst_pass", "worst_fail")]
    wilson = max(row["wilson_worst_pass"], row["wilson_worst_fail"])
    counts = (NAMES[row["bound"]], str(row["rows"]), f"{row['holding']} / {row['violating']}")
    return "| " + " | ".join((*counts, *shares, f"{wilson:.1f}")) + " |"


def test_the_page_shows_the_shipped_summary():
    page = (ROOT / "docs" / "guide" / "check.md").read_text(encoding="utf-8")
    assert [one for one in map(line, read("summary")) if one not in page] == []


def test_the_summary_is_that_of_the_rows():
    table = read("table")
    assert summarise(table) == read("summary")
    assert len({row["adapter"] for row in table}) == 40
    assert len(table) == 40 * len(ROWS) * (len(BOUNDS) + 1)
    for row in table:
        assert sum(row[one] for one in OUTCOMES) == SAMPLES


def test_no_adapter_is_decided_wrongly_more_often_than_stated():
    for row in read("summary"):
        assert max(row["worst_pass"], row["worst_fail"]) <= 5.0, row
        assert row["wrong"] < 1 < row["right"]


def test_samples_of_an_adapter_are_those_of_its_rate():
    marks = {"hs": np.arange(1000) < 30, "over_refusal": np.zeros(500, bool), "benign_answered": np.ones(500, bool)}
    rows = list(sample_rows("one", marks, 200, seed=0))
    assert rows == list(sample_rows("one", marks, 200, seed=0))
    assert [row["bound"] for row in rows] == [*BOUNDS, ALL]
    assert {row["truth"] for row in rows} == {"holds"}
    outcomes = decisions_by_count("max_hs", 200)
    counts = np.random.default_rng(0).binomial(200, 0.03, SAMPLES)
    expected = np.mean(outcomes[counts] == "holds")
    assert abs(rows[0]["holds"] / SAMPLES - expected) < 0.02  # either is known to 0.005
    assert rows[3]["holds"] == rows[0]["holds"]
