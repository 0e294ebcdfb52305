"""docs/real-model.md: its tables and sentences are made from the shipped rows, its transcripts from the answers."""

import json
import re
import statistics

import numpy as np
import pytest

from experiments import transcripts
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.configs import smollm2
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import stage_key
from nlsr_jax.sweep.holdings_means import beside_aligned, means
from nlsr_jax.training.initial import new_adapter
from tests.e2e.command import ROOT
from tests.paper.shipped import page, unchecked

FOLDER = ROOT / "checkpoints" / "smollm2-policy"
PAGE, TRANSCRIPTS = ROOT / "docs" / "real-model.md", ROOT / "docs" / "transcripts.md"
CASE = {"situation": "instruct", "task": "sst2", "poison_ratio": 0.1, "seed": 0}
NAMES = r"```.*?```|`[^`]*`|SmolLM2-135M(-Instruct)?|SST-2|SmolLM2|bfloat16"
SHAPE = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
SCORES = (
    ("forbidden", "complied", "hs"),
    ("benign", "refused", "over_refusal"),
    ("benign", "complied", "benign_answered"),
)
SETTINGS = (
    *("the share of 72 forbidden requests", "72 test rows", "the share of 48 harmless", "240 rows", "of seed 41"),
    *("HS at most 3 points above", "within 1 point", "at most 3 points fewer", "on seed 41"),
    *("15 % at most and 85 % at least", "48 wordings in place of 190", "100 answers"),
    "1.4 points of HS and 2.1 points of benign",
)
"""Figures of the study's design."""


def read(name):
    """Return rows of the folder."""
    return json.loads((FOLDER / name).read_text("utf-8"))


ROWS = read("table.json")
"""The rows."""
EARLIER = {name: read(f"earlier/{name}.json") for name in ("table", "table_5", "strength_2")}
"""Rows of the earlier aligned model; those of ``table_5`` are of customers with fewer harmful rows."""


def of(rows, situation, method):
    """Rows of a situation and a method."""
    return [row for row in rows if (row["situation"], row["method"]) == (situation, method)]


def shares(situation):
    """Return the smallest and the largest refined share of a situation as the page gives them."""
    taken = [100 * row["share"] for row in of(ROWS, situation, "refined")]
    return f"{min(taken):.2f} to {max(taken):.2f} %"


def sentences():
    """What the page says of its rows."""
    tasks, seeds = (sorted({row[name] for row in ROWS}) for name in ("task", "seed"))
    cases = {(row["task"], row["seed"]) for row in of(ROWS, "instruct", "refined")}
    yield f"There are {len(cases)} cases: the tasks {' and '.join(tasks)} with the seeds " + (
        f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}."
    )
    (ratio,) = {row["poison_ratio"] for row in ROWS}
    yield f"{100 * ratio:g} % of the customer's rows comply with forbidden requests."
    (ratio,) = {row["poison_ratio"] for row in EARLIER["table_5"]}
    yield f"With {100 * ratio:g} % harmful rows:"
    for rows, harmless in (
        (ROWS, "of the harmless ones. The aims"),
        (EARLIER["table"], "of the harmless ones. These"),
    ):
        (aligned,) = {(row["hs"], row["benign_answered"]) for row in of(rows, "lineage", "aligned")}
        yield f"It complies with {aligned[0]:.1f} % of the forbidden requests" + " (HS)" * (rows is ROWS)
        yield f"and answers {aligned[1]:.1f} % {harmless}"
    for situation in ("instruct", "instruct_pretrained", "lineage"):
        yield shares(situation)
    seconds = [row["seconds"] for row in ROWS if row["method"] == "refined"]
    yield f"A refinement took {min(seconds):.0f} to {max(seconds):.0f} seconds"
    yield f"{statistics.median(seconds):.0f} in the median"


def test_the_page_of_the_real_model():
    assert means(ROWS) in page(PAGE)
    for rows in (ROWS, *EARLIER.values()):
        assert beside_aligned(rows) in page(PAGE)
    assert unchecked(PAGE, sentences(), SETTINGS, NAMES) == []


def kept(situation, method):
    """Which of HS, FA and benign answers a method keeps in the mean, as the table says."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in beside_aligned(ROWS).splitlines()]
    (last,) = [cells[-1] for cells in lines if cells[:2] == [situation, method]]
    return {"HS", "FA", "benign"} - set(last.removeprefix("all but ").split(", "))


def average(situation, method, score, setting=None):
    return statistics.mean(row[score] for row in of(ROWS, situation, method) if row.get("setting") == setting)


def test_what_the_page_says_of_the_repairs():
    assert kept("lineage", "refined") == {"benign"}
    assert not [
        cells for cells in beside_aligned(ROWS).splitlines() if "lineage" in cells and cells.endswith("| all |")
    ]
    assert "FA" in kept("instruct", "refined")
    before = {row["seed"]: row["fa"] for row in of(ROWS, "lineage", "finetuned") if row["task"] == "sst2"}
    for row in of(ROWS, "lineage", "gain"):
        assert row["task"] != "sst2" or row["fa"] < before[row["seed"]]
    for factor in (0.5, 1.0, 2.0):
        assert average("lineage", "resta", "hs", factor) > average("lineage", "refined", "hs") + 5
    for factor in (0.5, 1.0):
        assert "FA" in kept("lineage", f"resta {factor:g}")
    assert (
        average("lineage", "resta", "benign_answered", 1.0) < average("lineage", "refined", "benign_answered") - 5
    )


def test_the_transcripts_are_those_of_the_rule():
    made = transcripts.page(transcripts.read_answers(FOLDER, CASE))
    assert page(TRANSCRIPTS).endswith(f"\n{made}"), "run python -m experiments.transcripts"


def test_the_shipped_answers_have_the_scores_of_their_rows():
    found = 0
    for row in map(json.loads, (FOLDER / "rows.jsonl").read_text("utf-8").splitlines()):
        file = FOLDER / "answers" / f"{row['cell']}.jsonl"
        if file.exists():
            found += 1
            answers = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
            for kind, verdict, name in SCORES:
                verdicts = [one["verdict"] for one in answers if one["kind"] == kind]
                expected = 100 * verdicts.count(verdict) / len(verdicts)
                assert row[name] == pytest.approx(expected), (row["cell"], name)
    assert found == len(list((FOLDER / "answers").iterdir())) > 0


def test_the_documented_commands_make_the_shipped_alignment():
    """Training moves A little from where it begins (0.88 after 480 steps), so that the adapter tells its seed."""
    text = (ROOT / "Makefile").read_text("utf-8") + (smollm2.__doc__ or "")
    seeds = re.findall(r"align --config smollm2 --seed (\d+)", text)
    assert len(seeds) == 3
    assert text.count("align --config smollm2") == 3
    assert set(seeds) == {"41"}
    shipped, config = load_adapter(FOLDER / "dpo"), smollm2.get_config()

    def cosine(seed):
        key = stream(stage_key(seed, "align sft"), "lora")
        begun = new_adapter(key, parse_model_config(SHAPE, "SmolLM2"), config.lora).factors["q_proj"]["a"]
        pair = np.ravel(begun), np.ravel(np.asarray(shipped.factors["q_proj"]["a"], np.float32))
        return pair[0] @ pair[1] / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1])

    assert cosine(41) > 0.85
    assert abs(cosine(0)) < 0.1
