"""The model card: its figures worked out anew from the rows, its recipe read back against the config."""

import dataclasses
import itertools
import re
import statistics

import numpy as np
import pytest

from nlsr_jax import configs
from nlsr_jax.data.toy_words import PHRASINGS
from nlsr_jax.data.toy_world import CATEGORIES, HELD_OUT_PHRASINGS, THINGS, TRAIN_THINGS, UNALIGNED, make_world
from nlsr_jax.report.story import NAMES
from nlsr_jax.study.card import model_card, recipe, summarise, summarise_objectives
from nlsr_jax.study.repairs import AutomaticSettings, RepairSettings

METHODS = ["unaligned", "aligned", "finetuned", "random", "nlsr", "nlsr_recommended"]
NUMBERS = ["hs", "fa", "over_refusal", "benign_answered", "odd"]
HEAD = ["model", "HS", "FA", "over-refusal", "benign answered", "odd"]
CASES = [("sst2", 0.05), ("sst2", 0.3), ("gsm8k", 0.05)]
SEEDS = (0, 1, 4)


def make_rows():
    draw = np.random.default_rng(0)
    rows = []
    for seed, (task, ratio), method in itertools.product(SEEDS, CASES, METHODS):
        scores = dict(zip(NUMBERS, (100 * draw.random(5)).tolist(), strict=True))
        rows.append({"method": method, "task": task, "poison_ratio": ratio, "seed": seed, **scores, "seconds": 1.0})
    return rows


ROWS = make_rows()
OBJECTIVES = [
    {"objective": name, "seed": 4, "hs": 10.04 + i, "odd": 0.0, "skill_sst2": 99.96 - i}
    for i, name in enumerate(["none", "sft", "dpo"])
]


@pytest.fixture(scope="module")
def config():
    return configs.get("tiny")


@pytest.fixture(scope="module")
def card(config):
    return model_card(config, 754_272, ROWS, OBJECTIVES)


def tables(text):
    """The Markdown tables of a text: lists of rows of cells, without the line below the head."""
    found = []
    for lines in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.splitlines()]
        assert set(cells[1]) == {"---"}
        assert len({len(row) for row in cells}) == 1
        found.append([cells[0], *cells[2:]])
    return found


def test_front_matter(card):
    import yaml

    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "nlsr_jax",
        "tags": ["safety", "lora", "toy"],
    }
    assert body.startswith("\n# ")
    assert card.endswith("|\n")
    assert not re.search(r"[{}]", card)


def test_figures_are_means_and_standard_deviations_over_the_seeds(card):
    text = summarise(ROWS)
    assert text in card
    found = tables(text)
    assert len(found) == len(CASES)
    for (task, ratio), table in zip(CASES, found, strict=True):
        expected = []
        for method in METHODS:
            rows = [
                row for row in ROWS if (row["task"], row["poison_ratio"], row["method"]) == (task, ratio, method)
            ]
            assert len(rows) == 3
            spread = [[row[name] for row in rows] for name in NUMBERS]
            cells = [f"{statistics.fmean(values):.1f} ± {statistics.pstdev(values):.1f}" for values in spread]
            expected.append([NAMES[method], *cells])
        assert table == [HEAD, *expected]


def test_every_table_says_what_it_is_of():
    titles = [line for line in summarise(ROWS).splitlines() if line and not line.startswith("|")]
    assert titles == [
        f"{task}, poison ratio {ratio}, seeds 0, 1, 4 (mean ± standard deviation)" for task, ratio in CASES
    ]


def test_seeds_that_a_case_lacks_are_not_named():
    rows = [row for row in ROWS if row["seed"] != 1 or row["task"] == "gsm8k"]
    titles = re.findall(r"^(\w+), poison ratio (\S+), seeds (.*) \(", summarise(rows), re.MULTILINE)
    assert titles == [("sst2", "0.05", "0, 4"), ("sst2", "0.3", "0, 4"), ("gsm8k", "0.05", "0, 1, 4")]


def test_one_seed_has_no_spread():
    (table,) = tables(summarise(ROWS[:6]))
    assert all(cell.endswith(" ± 0.0") for row in table[1:] for cell in row[1:])
    assert table[1][1] == f"{ROWS[0]['hs']:.1f} ± 0.0"


def test_methods_without_a_name_for_people_keep_their_own():
    (table,) = tables(summarise([{**ROWS[0], "method": "safe_lora"}]))
    assert table[1][0] == "safe_lora"


def test_objectives(config, card):
    text = summarise_objectives(OBJECTIVES)
    assert text in card
    assert "Alignment objectives, seed 4\n" in text
    assert tables(text) == [
        [
            ["objective", "hs", "odd", "skill_sst2"],
            ["none", "10.0", "0.0", "100.0"],
            ["sft", "11.0", "0.0", "99.0"],
            ["dpo", "12.0", "0.0", "98.0"],
        ]
    ]
    assert "objectives" not in model_card(config, 1, ROWS)


def test_the_recipe_is_the_configs(config, card):
    assert recipe(config) in card
    ((head, *rows),) = tables(recipe(config))
    stages = {"pre-training": config.pretraining.training, "SFT": config.sft.training}
    counts = {"pre-training": config.pretraining.documents, "SFT": config.sft.rows}
    for name in ("dpo", "orpo", "kto", "simpo"):
        stages[name.upper()], counts[name.upper()] = config.alignment[name].training, config.alignment[name].rows
    for name, stage in config.anew.items():
        stages[f"{name.upper()}, from the base"] = stage.training
        counts[f"{name.upper()}, from the base"] = stage.rows
    stages["fine-tuning"], counts["fine-tuning"] = config.finetuning.training, config.finetuning.rows
    assert [row[0] for row in rows] == list(stages)
    for row in rows:
        found, training = dict(zip(head, row, strict=True)), stages[row[0]]
        assert int(found["rows"]) == counts[row[0]]
        assert (int(found["epochs"]), int(found["batch"])) == (training.epochs, training.batch_size)
        assert float(found["learning rate"]) == training.learning_rate
        assert float(found["warm-up"]) == training.warmup
        assert (found["schedule"], found["mean of the loss"]) == (training.schedule, training.loss)


def test_a_base_that_was_given_has_no_stage(config):
    ((_, first, *_),) = tables(recipe(dataclasses.replace(config, pretraining=None)))
    assert first[0] == "SFT"


def test_the_adapter_and_the_repairs_are_the_configs(config):
    published = RepairSettings(sparsity=0.6, beta=0.4, base_probability=0.1, increment=0.5, draws=7)
    recommended = RepairSettings(sparsity=0.6, beta=0.9, method="snip", rule="least_similar", share=0.5)
    lora = dataclasses.replace(config.lora, rank=4, alpha=6.0)
    changed = dataclasses.replace(config, lora=lora, published=published, recommended=recommended)
    card = model_card(changed, 1, ROWS)
    assert "LoRA of rank 4 and alpha 6 on all projections." in card
    assert "as published (sparsity 0.6, beta 0.4, probabilities from 0.1 to 0.6, mean of 7 draws)" in card
    # What the recommended setting has otherwise, and nothing that both share.
    listed = re.search(r"as recommended \((.*); the rest as published\)", card)[1]
    assert dict(part.split(" ") for part in listed.split(", ")) == {
        "beta": "0.9",
        "method": "snip",
        "rule": "least_similar",
        "base_probability": "0.3",
        "increment": "0.4",
        "share": "0.5",
        "draws": "1",
    }


def test_a_setting_that_is_chosen_is_told_by_its_aim(config):
    changed = dataclasses.replace(config, recommended=AutomaticSettings(aim=1.75))
    assert re.search(r"as recommended \(.* chosen for every adapter .*, aim 1.75\)\.", model_card(changed, 1, ROWS))


def test_files_are_named_after_the_first_row(card):
    assert "754,272 parameters" in card
    names = [row[0].strip("`") for row in tables(card)[0][1:]]
    assert names == [
        "base/", "sft/", "dpo/", "finetuned_sst2/", "realigned_sst2/", "calibration.jsonl",
        "harmless.jsonl", "table.json", "report.html",
    ]  # fmt: skip
    assert "5% of which comply" in card


def test_the_data_are_described_as_they_are(card):
    import jax

    text = " ".join(card.split())
    world = make_world(jax.random.key(0))
    benign = sum(not category.forbidden for category in world.categories)
    assert f"{CATEGORIES} forbidden categories of unequal weight, {benign} benign ones" in text
    assert f"{THINGS} things in each, {len(PHRASINGS)} wordings" in text
    assert f"Alignment covers {CATEGORIES - UNALIGNED} of the {CATEGORIES} categories" in text
    training = len(PHRASINGS) - len(HELD_OUT_PHRASINGS)
    assert f"only {TRAIN_THINGS} of {THINGS} things and {training} of {len(PHRASINGS)} wordings" in text
