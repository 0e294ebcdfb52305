"""The tables of scores: their cells, how a setting is chosen, and what is printed."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.paper import results
from nlsr_jax.paper.tables import GAIN, MODELS, TABLES, get_table
from nlsr_jax.study.repairs import FIXED, PUBLISHED, RECOMMENDED
from nlsr_jax.sweep.cells import make_cell
from tests.paper.rows import SEEDS, made_up


@pytest.mark.parametrize("number", TABLES)
def test_every_line_has_a_cell_for_every_column_and_so_have_the_papers_numbers(number):
    table = get_table(number)
    names = [line.name for line in table.lines]
    assert len(set(names)) == len(names)
    assert "finetuned" in names
    for line in table.lines:
        assert all(len(cells) == len(table.columns) for cells in line.options.values())
    for name, scores in table.paper.items():
        assert name in names
        for score, values in scores.items():
            assert len(values) == (1 if score == "seconds" else len(table.columns))


def test_the_papers_means_are_those_it_prints():
    poison = get_table(1).paper
    for name, hs, fa in (("finetuned", 61.1, 94.8), ("safelora", 53.1, 94.0), ("nlsr", 22.8, 95.1)):
        assert np.mean(poison[name]["hs"]) == pytest.approx(hs, abs=0.051)
        assert np.mean(poison[name]["fa"]) == pytest.approx(fa, abs=0.051)
    objectives = get_table(2).paper
    assert np.mean(objectives["nlsr"]["hs"]) == pytest.approx(27.1, abs=0.051)


def test_tables_share_their_cells():
    every = [cell for table in TABLES.values() for cell in table.cells((5,))]
    assert len(set(every)) < len(every)
    assert make_cell("finetuned", seed=5) in get_table(1).cells((5,))
    assert get_table(1).cells((5, 6)) == [
        dataclasses.replace(c, seed=s) for c in get_table(1).cells((0,)) for s in (5, 6)
    ]


def test_what_is_recommended_is_what_differs_from_the_published():
    assert dataclasses.replace(PUBLISHED, **GAIN) == FIXED
    assert {"share": None} | dict(MODELS["nlsr_recommended"].settings) == dataclasses.asdict(RECOMMENDED)


def test_there_is_no_other_table():
    with pytest.raises(InputError, match="table 9 is not a table of scores; expected one of 1, 2"):
        get_table(9)


def score(cell):
    """NLSR is best; SafeLoRA trades FA for HS; the others do nothing."""
    settings = dict(cell.settings)
    hs, fa = 60.0 + cell.seed, 90.0
    if cell.method in ("nlsr", "nlsr_automatic"):
        hs = 20.0
    if cell.method == "safelora":
        number = settings.get("number", 0)
        hs, fa = 50.0 - number, 90.0 - number / 8 + 10 * ("projector" in settings and number == 10)
    if cell.method == "lisa":
        hs, fa = 5.0, 50.0
    return hs, fa, 1.0


def found(number=1):
    table = get_table(number)
    return table, results.summarise(table, made_up(table.cells(SEEDS), score), SEEDS)


def test_the_setting_is_that_of_least_hs_that_keeps_fa():
    table, lines = found()
    by_name = {result.line.name: result for result in lines}
    assert by_name["safelora"].option == "number 10, projector exact"  # 42 would lose 5 points, 21 would lose 2.6
    assert by_name["safelora"].keeps
    assert by_name["safelora"].values["hs"][0] == (40.0, 0.0)
    assert not by_name["lisa"].keeps
    assert by_name["finetuned"].values["hs"][0] == (65.5, 0.5)
    assert by_name["finetuned"].seeds["hs"].shape == (len(table.columns), len(SEEDS))


def test_where_no_setting_keeps_fa_the_one_that_keeps_most_is_taken():
    table = get_table(1)

    def worse(cell):
        hs, fa, refused = score(cell)
        return hs, fa - 20 * (cell.method == "safelora"), refused

    lines = results.summarise(table, made_up(table.cells(SEEDS), worse), SEEDS)
    line = next(result for result in lines if result.line.name == "safelora")
    assert (line.option, line.keeps) == ("number 10, projector exact", False)


def test_the_frontier_names_who_is_better_and_keeps_fa():
    table, lines = found()
    assert results.frontier(table, lines, "nlsr recommended") == []
    assert "none, at any of its settings" in results.markdown(table, lines, SEEDS)

    def beaten(cell):
        hs, fa, refused = score(cell)
        better = cell.method == "resta" and cell.poison_ratio == 0.1 and dict(cell.settings)["gamma"] == 0.5
        return (10.0 if better else hs), fa, refused

    lines = results.summarise(table, made_up(table.cells(SEEDS), beaten), SEEDS)
    assert results.frontier(table, lines, "nlsr recommended") == [
        ("RESTA (gamma 0.5)", "10%", 1.0, 1.0, 99.0, 99.0)
    ]
    text = results.markdown(table, lines, SEEDS)
    assert "answering no fewer of the harmless requests: RESTA (gamma 0.5) at 10%." in text
    assert "at the price of harmless requests" not in text


def test_a_lower_hs_at_the_price_of_harmless_requests_is_said_apart():
    table = get_table(1)

    def dearer(cell):
        hs, fa, refused = score(cell)
        better = cell.method == "resta" and cell.poison_ratio == 0.1 and dict(cell.settings)["gamma"] == 0.5
        return (10.0, fa, 30.0) if better else (hs, fa, refused)

    lines = results.summarise(table, made_up(table.cells(SEEDS), dearer), SEEDS)
    text = results.markdown(table, lines, SEEDS)
    assert "answering no fewer of the harmless requests: none, at any of its settings, in any column." in text
    price = "RESTA (gamma 0.5) at 10% (30.0 against 1.0 refused, 70.0 against 99.0 answered)."
    assert f"Of lower HS at the price of harmless requests: {price}" in text


def test_requests_that_are_neither_answered_nor_refused_are_a_price_too():
    assert results.Better("RESTA", "5%", 1.0, 1.0, 75.0, 97.0).dearer
    assert results.Better("RESTA", "5%", 2.0, 1.0, 97.0, 97.0).dearer
    assert not results.Better("RESTA", "5%", 1.0, 1.0, 97.0, 97.0).dearer


def test_tables_of_nlsr_alone_say_nothing_of_other_defenses():
    table, lines = found(4)
    assert results.describe_frontier(table, lines) == ""


def test_markdown_has_ours_with_the_spread_and_the_papers_in_brackets():
    table, lines = found()
    text = results.markdown(table, lines, SEEDS)
    assert text.startswith("## Table 1. ")
    assert "seeds 5, 6" in text
    assert "| aligned, no defense | 65.5 ± 0.5 (34.2) | 65.5 ± 0.5 (56.6) |" in text
    assert "| Lisa * | 5.0 ± 0.0 (36.9) |" in text
    assert "| NLSR, as published | 20.0 ± 0.0 (8.1) | 20.0 ± 0.0 (20.4) | 20.0 ± 0.0 (27.6) |" in text
    head = next(line for line in text.splitlines() if line.startswith("| HS"))
    assert head == "| HS | 1% | 5% | 10% | 20% | 30% | mean |"
    for part in results.parts(table, lines):
        assert all(len(line) == len(part.head) for line in part.lines)


def test_seconds_are_shown_where_they_were_measured():
    table = get_table(5)
    lines = results.summarise(table, made_up(table.cells(SEEDS), score), SEEDS, {"nlsr": 0.51, "wanda": 0.5})
    text = results.markdown(table, lines, SEEDS)
    assert "| low rank (NLSR) | 0.51 (196.3) |" in text
    assert "| SNIP | (386.6) |" in text
    assert "| random |  |" in text


def test_the_csv_holds_every_number():
    table, lines = found()
    rows = list(csv.DictReader(io.StringIO(results.comma_separated(table, lines))))
    assert len(rows) == len(table.lines) * len(table.columns) * len(table.scores)
    row = next(r for r in rows if r["line"] == "NLSR, as published" and (r["score"], r["column"]) == ("hs", "5%"))
    assert (float(row["mean"]), float(row["spread"]), float(row["paper"])) == (20.0, 0.0, 20.4)
