"""One setting is published: the command's defaults give what the tables are made of."""

import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax import PUBLISHED, configs
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.data.examples import Example
from nlsr_jax.formats.mask_files import load_masks
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.random_streams import stream
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.repairs import (
    RepairSettings,
    calibration_batches,
    gather_evidence,
    make_masks,
    make_reference,
    repair_once,
)
from nlsr_jax.study.toy import ToyWorld
from tests.e2e.command import run

FIELDS = [field.name for field in dataclasses.fields(PUBLISHED)]


def of(settings):
    return {name: getattr(settings, name) for name in FIELDS}


def test_the_probabilities_are_the_papers_spread_to_both_sides():
    assert (PUBLISHED.base_probability, PUBLISHED.increment) == (0.3, 0.4)
    assert (PUBLISHED.beta, PUBLISHED.sparsity, PUBLISHED.method) == (0.9, 0.8, "low_rank")
    middle = PUBLISHED.base_probability + PUBLISHED.increment / 2
    assert middle == pytest.approx(inspect.signature(nlsr_jax.realign).parameters["base_probability"].default)


@pytest.mark.parametrize("settings", [Settings(), RepairSettings(), configs.get("tiny").published])
def test_pipeline_and_laboratory_take_the_published_settings(settings):
    assert of(settings) == of(PUBLISHED)


def test_the_commands_flags_take_the_published_settings():
    printed = " ".join(run("realign", "--helpfull", check=False).stdout.split())
    for name, value in of(PUBLISHED).items():
        if value is not None:
            text = printed.partition(f" --{name}: ")[2].partition(" --")[0]
            assert f"(default: '{value}')" in text or f"; published: '{value}')" in text, name


def test_the_functions_defaults_are_published_but_for_the_equations_own():
    for function, names in {
        nlsr_jax.amplify: ("beta",),
        nlsr_jax.identify: ("sparsity", "method", "granularity"),
        nlsr_jax.realign: ("increment", "rule", "space"),
        nlsr_jax.pruning_probability: ("increment",),
        nlsr_jax.realign_many: ("increment",),
    }.items():
        parameters = inspect.signature(function).parameters
        for name in names:
            assert parameters[name].default == getattr(PUBLISHED, name)


def test_a_run_with_defaults_is_the_laboratorys_repair(tmp_path):
    config = configs.get("tiny")
    base = load_base(SHIPPED / "base", ToyWorld())
    weak, aligned, finetuned = (load_adapter(SHIPPED / name) for name in ("sft", "dpo", "finetuned_sst2"))
    reference = make_reference(aligned, weak, config.published)
    rows = [Example(**json.loads(line)) for line in (SHIPPED / "calibration.jsonl").read_text().splitlines()]
    batches = calibration_batches(base, rows, 50, config.sft.training.max_length)
    evidence = gather_evidence(base, reference, batches, config.published.method)
    masks = make_masks(jax.random.key(0), reference, evidence, config.published)
    key = stream(jax.random.key(3), "pruning")
    expected = repair_once(key, finetuned, reference, masks, config.published)

    adapters = {"weak": "sft", "aligned": "dpo", "finetuned": "finetuned_sst2"}
    paths = {name: str(SHIPPED / place) for name, place in {"base": "base", **adapters}.items()}
    given = Settings(**paths, calibration=str(SHIPPED / "calibration.jsonl"), seed=3)
    record = realign_files(given, tmp_path / "out")
    assert record["warnings"] == []
    assert record["calibration"]["used"] == len(rows)
    found, found_masks = load_adapter(tmp_path / "out"), load_masks(tmp_path / "out" / "masks.safetensors")
    for entry in record["modules"]:
        module, layer = entry["module"], entry["layer"]
        assert entry["pruned"] == bool(expected.pruned[module][layer])
        assert entry["probability"] == float(expected.probability[module][layer])
        # Batches of other sizes add up in another order: float32 sums of a few thousand positions.
        assert entry["similarity"] == pytest.approx(float(expected.similarity[module][layer]), abs=1e-5)
    for module, leaf in found.factors.items():
        for factor, value in leaf.items():
            same = np.asarray(found_masks[module][factor]) == np.asarray(masks[module][factor])
            assert same.mean() > 0.999, "entries at the threshold may fall to either side"
            # The last bit of the amplification is the compiler's.
            expected_value = np.asarray(expected.adapter.factors[module][factor])
            np.testing.assert_allclose(value[same], expected_value[same], atol=1e-7)
