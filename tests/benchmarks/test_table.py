"""The table of figures is made from the results file, and docs/benchmarks.md holds that table."""

import json
import pathlib
import re

import pytest

from benchmarks.measure import append_result, ratios
from benchmarks.table import STAGES, TITLES, WHOLE, WHOLE_FILE, read_results, replace, stages, table

ROOT = pathlib.Path(__file__).parents[2]


def test_the_last_line_of_a_name_counts(tmp_path):
    append_result("masks", ratios([4.0, 4.0], [2.0, 2.0]), "s", tmp_path)
    append_result("masks", ratios([6.0, 6.0, 8.0], [2.0, 2.0, 2.0]), "s", tmp_path)
    append_result("first_line", {"ours": 2.5}, "s", tmp_path)
    results = read_results(tmp_path / "latest.jsonl")
    assert results["masks"]["machine"]["cores"] > 0
    made = table(results, TITLES)
    assert made.splitlines()[2:] == ["| its masks, against a full sort | 6 s | 2 s | 3 × | 3 to 4 |"]


def test_the_table_takes_its_place_between_the_marks():
    text = "before\n<!-- benchmarks -->\nold\n<!-- end of benchmarks -->\nafter\n"
    assert replace(text, "new\n") == text.replace("old", "new")
    with pytest.raises(ValueError, match="are missing"):
        replace("no marks", "new\n")


def test_every_result_has_a_title():
    results = ROOT / "benchmarks" / "results"
    assert set(TITLES) <= set(read_results(results / "latest.jsonl"))
    if (results / WHOLE_FILE).exists():
        assert set(WHOLE) <= set(read_results(results / WHOLE_FILE))


def test_stages_of_both_sides_add_up_to_the_whole():
    one = {"peer": 20.0, "ours": 10.0, "peer_stages": {"import": 5.0, "refine": 12.0}, "stages": {"refine": 6.0}}
    made = stages({"realign_recommended": one}).splitlines()[2:]
    assert len(made) == len(STAGES)
    assert made[0] == "| start and imports | 8.0 s | 4.0 s | – | – |"
    assert made[4].endswith("| 12.0 s | 6.0 s | – | – |")


@pytest.mark.parametrize("name", ["README.md", "BUILD.md"])
def test_the_table_stands_in_one_place(name):
    assert not re.search(r"\d ×", (ROOT / name).read_text())


def test_results_are_lines_of_json_with_the_contracts_fields():
    lines = (ROOT / "benchmarks" / "results" / "latest.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert {"name", "unit", "machine", "versions"} <= set(line)
