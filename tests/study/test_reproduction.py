"""A study from nothing in its smallest form: what it writes, that it repeats, that it goes on after a death."""

import dataclasses
import json

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.files.ownership import foreign_study
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.models import load_model
from nlsr_jax.study import reproduction
from nlsr_jax.study.bench import ROW, SWEPT
from nlsr_jax.study.case import Case
from nlsr_jax.study.reproduction import Plan, reproduce
from tests.e2e.command import contents
from tests.study.small_study import small_config

pytestmark = pytest.mark.long

PLAN = Plan(seeds=(1, 2), tasks=("sst2",))
METHODS = ["unaligned", "aligned", "finetuned", "random", "nlsr", "nlsr_recommended"]


@pytest.fixture(scope="module")
def config():
    return small_config()


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    """An output, and the text that came with it."""
    output = tmp_path_factory.mktemp("study") / "out"
    return output, reproduce(config, PLAN, output)


def timeless(path):
    return [{**row, "seconds": 0} for row in json.loads(path.read_text())]


def test_every_method_task_and_seed_has_a_row(made):
    rows = json.loads((made[0] / "table.json").read_text())
    assert [(row["seed"], row["task"], row["method"]) for row in rows] == [
        (seed, task, method) for seed in PLAN.seeds for task in PLAN.tasks for method in METHODS
    ]
    for row in rows:
        assert tuple(row) == ROW
        assert row["poison_ratio"] == 0.05
        assert all(0 <= row[name] <= 100 for name in ("hs", "fa", "over_refusal", "benign_answered", "odd"))
        assert row["seconds"] >= 0


def test_what_is_written_loads(made):
    output, text = made
    names = "README.md base calibration.jsonl dpo finetuned_sst2 harmless.jsonl realigned_sst2 report.html sft"
    assert sorted(path.name for path in output.iterdir()) == [*names.split(), "table.json"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    assert foreign_study(output) is None, "it could not be made again with --overwrite"
    model, _ = load_model(output / "base")
    adapters = {name: load_adapter(output / name, model.config) for name in ("sft", "dpo", "finetuned_sst2")}
    factor = [adapter.factors["q_proj"]["a"] for adapter in adapters.values()]
    assert not np.array_equal(factor[0], factor[1])
    assert not np.array_equal(factor[1], factor[2])
    card = (output / "README.md").read_text()
    assert text in card
    assert "| SFT | 32 | 1 | 16 |" in card


def test_objectives_are_compared_with_the_base(config, made, tmp_path):
    plan = dataclasses.replace(PLAN, seeds=(1,), objectives=True, base=str(made[0] / "base"))
    reproduce(config, plan, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "objectives.json").read_text())
    assert [row["objective"] for row in rows] == ["none", "sft", "dpo", "orpo", "kto", "simpo"]
    assert all({"hs", "skill_sst2", "skill_ag_news", "skill_gsm8k"} <= set(row) for row in rows)


def test_sweeps_vary_one_setting(config, made, tmp_path):
    plan = dataclasses.replace(PLAN, seeds=(1,), sweeps=True)
    text = reproduce(config, dataclasses.replace(plan, base=str(made[0] / "base")), tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "sweeps.json").read_text())
    assert [(row["setting"], row["value"]) for row in rows] == [
        (name, value) for name, values in SWEPT.items() for value in values
    ]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["method"] for row in table] == METHODS
    published = next(row for row in table if row["method"] == "nlsr")
    for row in rows:
        if row["value"] == getattr(config.published, row["setting"]):
            assert row["hs"] == published["hs"]
    assert "| 0.95 |" in text


def test_a_study_that_died_goes_on(config, made, tmp_path, monkeypatch):
    """It dies in the second case; then that alone is made again."""
    asked = []
    real = reproduction._story
    plan = dataclasses.replace(PLAN, base=str(made[0] / "base"))

    def dies(bench, *rest):
        asked.append(bench.case)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(bench, *rest)

    monkeypatch.setattr(reproduction, "_story", dies)
    with pytest.raises(InputError, match="interrupted; run the same command again"):
        reproduce(config, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rows = tmp_path / "out.training" / "rows.jsonl"
    rows.write_text(rows.read_text() + '[{"method": "unal')
    reproduce(config, plan, tmp_path / "out")
    assert asked == [Case("sst2", 0.05, seed) for seed in (1, 2, 2)]
    assert timeless(tmp_path / "out" / "table.json") == timeless(made[0] / "table.json")
    for name in ("dpo/adapter_model.safetensors", "finetuned_sst2/adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (made[0] / name).read_bytes()


def test_another_plan_does_not_go_on_with_this_one(config, tmp_path):
    work = tmp_path / "out.training"
    work.mkdir()
    (work / "run.json").write_text("{}")
    with pytest.raises(InputError, match="a training run with a different"):
        reproduce(config, PLAN, tmp_path / "out")
    (work / "run.json").unlink()
    (work / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not the folder of a training run"):
        reproduce(config, PLAN, tmp_path / "out")
    assert (work / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "--seeds is ''; expected at least one"),
        ({"seeds": (1, 1)}, "no duplicates"),
        ({"seeds": (-1,)}, "--seeds has -1"),
        ({"tasks": ("sst3",)}, "--tasks has 'sst3'; expected some of sst2, ag_news, gsm8k"),
        ({"poison_ratios": (1.5,)}, "--poison_ratios has 1.5"),
    ],
)
def test_plans_that_cannot_be_carried_out(config, tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        reproduce(config, dataclasses.replace(PLAN, **changes), tmp_path / "out")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_kept(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("kept")
    with pytest.raises(InputError, match="output exists"):
        reproduce(config, PLAN, tmp_path / "out")
    with pytest.raises(InputError, match="replaces only what nlsr_jax has written, and this folder holds x and no"):
        reproduce(config, PLAN, tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "kept"


def test_a_study_is_not_made_in_place_of_its_own_base(config, made):
    before = contents(made[0])
    with pytest.raises(InputError, match=r"holds the input --base"):
        reproduce(config, dataclasses.replace(PLAN, base=str(made[0] / "base")), made[0], overwrite=True)
    assert contents(made[0]) == before
