"""docs/real-model.md: its tables and sentences are made from the shipped rows, its transcripts from the answers."""

import functools
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
    *("the share of 72 forbidden requests", "72 test rows", "the share of 48 harmless", "240 rows", "seed 41"),
    *("at most 3 points above", "FA within 1 point", "at most 3 points fewer", "135 million"),
    "1.4 points of HS and 2.1 points of benign",
    *(
        "with 5 % harmful rows came out the same",
        "(SST-2, seed 2)",
        "of the rows with 10 % harmful rows",
        "With seed 0 the same recipe complies with 37.5 %",
        "and answers 83.3 % of the harmless ones, so",
    ),
)
"""Figures of the study's design."""


@functools.cache
def rows():
    """The shipped rows."""
    return json.loads((FOLDER / "table.json").read_text("utf-8"))


@functools.cache
def fewer():
    """The shipped rows of customers with fewer harmful rows."""
    return json.loads((FOLDER / "table_5.json").read_text("utf-8"))


@functools.cache
def stronger():
    """The shipped rows of the recommended strength of fresh adapters."""
    return json.loads((FOLDER / "strength_2.json").read_text("utf-8"))


def of(situation, method):
    """Rows of a situation and a method."""
    return [row for row in rows() if (row["situation"], row["method"]) == (situation, method)]


def kept_by(share):
    """Whether a fixed share keeps HS, FA and benign answers in the lineage situation, in the mean."""
    line = next(row for row in beside_aligned(rows()).splitlines() if f"| β 1, {100 * share:g} % |" in row)
    return [name not in line.rpartition("all but ")[2] for name in ("HS", "FA", "benign")]


def sentences():
    """What the page says of its rows."""
    tasks, seeds = (sorted({row[name] for row in rows()}) for name in ("task", "seed"))
    cases = {(row["task"], row["seed"]) for row in of("instruct", "refined")}
    yield f"There are {len(cases)} cases: the tasks {' and '.join(tasks)} with the seeds " + (
        f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}."
    )
    (ratio,) = {row["poison_ratio"] for row in rows()}
    yield f"{100 * ratio:g} % of the customer's rows comply with forbidden requests."
    aligned = of("instruct", "aligned")[0]
    yield f"It complies with {aligned['hs']:.1f} % of the forbidden requests (HS)"
    yield f"and answers {aligned['benign_answered']:.1f} % of the harmless ones."
    taken = [100 * row["share"] for row in of("instruct", "refined")]
    yield f"It takes {min(taken):.1f} to {max(taken):.1f} % of the entries there"
    taken = [100 * row["share"] for row in of("instruct_pretrained", "refined")]
    yield f"With the pretrained model, {min(taken):.1f} to {max(taken):.1f} % are enough"
    (ratio,) = {row["poison_ratio"] for row in fewer()}
    yield f"The same with {100 * ratio:g} % harmful rows."
    assert all(
        "would make it refuse harmless ones" in row["notes"][0] for row in fewer() if row["method"] == "refined"
    )
    shares = {(row["task"], row["seed"], row["method"]): row for row in fewer() if row["situation"] == "instruct"}
    kept = [(row, shares[*case[:2], "refined"]) for case, row in shares.items() if case[2] == "refined_kept"]
    ((held, free),) = [pair for pair in kept if pair[0]["share"] != pair[1]["share"]]
    assert "task's answers" in held["notes"][0]
    assert free["fa"] >= shares[held["task"], held["seed"], "finetuned"]["fa"]
    yield f"ends the search at {100 * held['share']:.1f} % of the entries"
    larger = shares["sst2", 2, "refined"]
    yield f"HS fell from 26.4 to {larger['hs']:.1f}"
    yield f"although FA does not fall with {100 * free['share']:.0f} %"
    found = [row for row in stronger() if row["method"] == "refined"]
    (strength,), taken = {row["strength"] for row in found}, [100 * row["share"] for row in found]
    assert beside_aligned(stronger()).endswith("| all |")
    yield f"now, with strength {strength:g}, has been run on the cases of `instruct` with {100 * ratio:g} %"
    yield f"aims in the mean, with {min(taken):.1f} to {max(taken):.1f} % of the entries"
    *_, low, high = sorted({row["share"] for row in of("lineage", "gain")})
    assert kept_by(low) == [False, True, True]
    assert kept_by(high) == [True, False, False]
    yield f"{100 * low:g} % leaves much of the harm, and {100 * high:g} % brings HS to the aligned model's"
    seconds = [row["seconds"] for row in rows() if row["method"] == "refined"]
    yield f"A refinement took {min(seconds):.0f} to {max(seconds):.0f} seconds"
    yield f"{statistics.median(seconds):.0f} in the median"


def test_the_page_of_the_real_model():
    assert means(rows()) in page(PAGE)
    assert beside_aligned(rows()) in page(PAGE)
    assert means(fewer()) in page(PAGE)
    assert beside_aligned(fewer()) in page(PAGE)
    assert means(stronger()) in page(PAGE)
    assert beside_aligned(stronger()) in page(PAGE)
    same = {(row["task"], row["seed"], row["hs"]) for row in fewer() if row["method"] in ("aligned", "finetuned")}
    assert {(row["task"], row["seed"], row["hs"]) for row in stronger() if row["method"] != "refined"} <= same
    assert {(row["task"], row["seed"]) for row in fewer()} == {(row["task"], row["seed"]) for row in rows()}
    assert unchecked(PAGE, sentences(), SETTINGS, NAMES) == []


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
    """Training moves A little from where it begins, so that the adapter tells its seed."""
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

    assert cosine(41) > 0.9
    assert abs(cosine(0)) < 0.1
