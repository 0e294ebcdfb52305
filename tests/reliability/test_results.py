"""The page of results, and what is said of the sample of faults."""

import json
import re

from tests.e2e.command import ROOT
from tests.reliability.mutants import place
from tests.reliability.mutations import MUTATIONS
from tests.reliability.results import PAGE, RESULTS, page


def test_the_page_is_made_from_the_results():
    kept = json.loads(RESULTS.read_text())
    assert PAGE.read_text() == page(kept)


def test_every_fault_fits_the_tree():
    assert [mutation for mutation in MUTATIONS if place(ROOT, mutation) is None] == []


def test_every_result_held_in_all_cases():
    for command, one in json.loads(RESULTS.read_text()).items():
        assert one["cases"] == one["held"] > 0, command
        assert command.startswith(("python -m tests.reliability.", "python -m pytest tests/", "make "))


def test_the_sample_of_faults_is_as_recorded():
    """``mutants.json`` has the outcomes of ``tests.reliability.mutants`` at a commit before the suite was shortened
    and now."""
    before, now = json.loads((ROOT / "tests" / "reliability" / "mutants.json").read_text()).values()
    assert [one["number"] for one in now] == [*range(len(MUTATIONS))]
    assert all((one["file"], one["kind"]) == (m.file, m.kind) for one, m in zip(now, MUTATIONS, strict=True))
    assert {one["outcome"] for one in now} == {"caught"}
    outcomes = [one["outcome"] for one in before]
    limits = [one["limit"] for one in before if one["outcome"] == "out of time"]
    words = {1: "one", 3: "Three", 4: "four"}
    assert (
        f"it noticed {outcomes.count('caught')} of the {len(before)} that were tried. "
        f"{words[outcomes.count('survived')]} others passed all tests of their packages; "
        f"{words[limits.count(150)]} were not noticed within 150 seconds of processor time, "
        f"and {words[limits.count(600)]} not within 600."
    ) in re.sub(r"\s+", " ", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
