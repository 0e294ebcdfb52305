"""docs/worlds.md: its table and its sentences are made from the shipped rows."""

import functools
import json

from nlsr_jax.calibration.asking import ASKED
from nlsr_jax.study.variations import DEVELOPMENT, VARIATIONS
from nlsr_jax.sweep.worlds import WORSE_BENIGN, WORSE_FA, shortfalls, worlds_table
from tests.e2e.command import ROOT
from tests.paper.shipped import page, unchecked

FOLDER, PAGE = ROOT / "checkpoints" / "tiny-worlds", ROOT / "docs" / "worlds.md"
LINE = r"\| \w+ \| (instruct|lineage) \|[^\n]*\| (yes|says no|no: [A-Za-z, ]+) \|"
NAMES = r"```.*?```|`[^`]*`|\]\([^)]*\)|SST-2|" + LINE
"""Code, links, names, and the lines of the table."""
SETTINGS = (
    "when the recommended strength became 2",
    *("with 5 % harmful rows and seed 0", "4 of 12 forms", "50 calibration rows in place of 400"),
)
"""Figures of the study's design."""


@functools.cache
def rows():
    """The shipped rows."""
    return json.loads((FOLDER / "table.json").read_text("utf-8"))


def cases(method="refined"):
    """The fine-tuned row and the one of a repair, for every case."""
    found = {}
    for row in rows():
        found.setdefault((row["world"], row["situation"]), {})[row["method"]] = row
    return {case: (of["finetuned"], of[method]) for case, of in found.items()}


def lost(pair):
    """Points of FA that a repair takes off the fine-tuned model's."""
    return pair[0]["fa"] - pair[1]["fa"]


def sentences():
    """What the page says of its rows."""
    held = [case for case, pair in cases().items() if not shortfalls(*pair)]
    yield f"There are {len(VARIATIONS)} worlds and {len(cases())} cases"
    yield f"FA by more than {WORSE_FA:g} points or the benign answers by more than {WORSE_BENIGN:g}"
    yield f"It holds in {len(held)} of the {len(cases())} cases"
    failed = {case: shortfalls(*pair) for case, pair in cases().items() if case not in held}
    assert {tuple(found) for found in failed.values()} == {("FA",)}
    yield "In the others FA falls"
    world, situation = max(failed, key=lambda case: lost(cases()[case]))
    yield f"The largest loss is that of `{world}` in the {situation} situation"
    yield f"asks {ASKED} unlabelled prompts of the task"
    kept = cases("refined_kept")
    missed = {case: pair for case, pair in kept.items() if shortfalls(*pair)}
    yield f"With prompts of the task it holds in {len(kept) - len(missed)} of them"
    yield f"and FA falls by {max(map(lost, kept.values())):.1f} points at most"


def test_the_page_of_the_worlds():
    assert worlds_table(rows()) in page(PAGE)
    assert unchecked(PAGE, sentences(), SETTINGS, NAMES) == []


def test_every_declared_world_and_no_world_of_development_is_reported():
    assert {row["world"] for row in rows()} == set(VARIATIONS)
    assert not set(VARIATIONS) & set(DEVELOPMENT)
