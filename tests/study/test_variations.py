"""Each world of the variations is one change of the tiny study, and the change that its name says."""

import dataclasses

import pytest

from nlsr_jax import configs
from nlsr_jax.study.config import describe_config
from nlsr_jax.study.variations import DEVELOPMENT, VARIATIONS, Variation
from nlsr_jax.training.settings import check_lora


def flat(described, prefix=""):
    """Return the leaves of a description by their path."""
    if not isinstance(described, dict):
        return {prefix: described}
    return {path: leaf for name, one in described.items() for path, leaf in flat(one, f"{prefix}/{name}").items()}


def differences(variation):
    config = configs.get(variation.config)
    before, after = (flat(describe_config(one)) for one in (config, variation.changed(config)))
    return {path: (before[path], after[path]) for path in before if before[path] != after[path]}


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("few_rows", {"/calibration_rows"}),
        ("double_rate", {"/finetuning/training/learning_rate"}),
        ("rank_4", {"/lora/rank", "/lora/alpha"}),
        ("rank_64", {"/lora/rank", "/lora/alpha"}),
        ("attention_only", {"/lora/modules"}),
    ],
)
def test_a_world_changes_what_its_name_says(name, paths):
    assert set(differences(VARIATIONS[name])) == paths


def test_a_study_whose_base_was_moved_is_the_same():
    config = configs.get("tiny")
    assert describe_config(dataclasses.replace(config, base="/elsewhere/base")) == describe_config(config)


def test_the_others_keep_the_config():
    for name in ("other_vocabulary", "other_words", "four_refusals", "own_refusals", "poison_half", "tiny_mistral"):
        assert not differences(VARIATIONS[name])


def test_every_world_is_another():
    known = {**VARIATIONS, **DEVELOPMENT}
    assert Variation() not in known.values()
    assert len(set(known.values())) == len(known)
    for variation in known.values():
        lora = variation.changed(configs.get(variation.config)).lora
        check_lora(lora)
        assert lora.alpha / lora.rank == 2


def test_fewer_alignment_rows_are_of_all_stages():
    config = configs.get("tiny")
    half = dataclasses.replace(Variation(), alignment_rows=0.5).aligning(config)
    assert half.sft.rows * 2 == config.sft.rows
    assert {name: 2 * stage.rows for name, stage in half.alignment.items()} == {
        name: stage.rows for name, stage in config.alignment.items()
    }
