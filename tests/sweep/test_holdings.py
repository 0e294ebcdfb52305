"""The table of holdings: its rows, that it continues, and what it refuses."""

import collections
import dataclasses
import json

import pytest

from nlsr_jax import configs
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.errors import InputError
from nlsr_jax.study.case import Case
from nlsr_jax.study.situations import SITUATIONS
from nlsr_jax.sweep import holdings
from nlsr_jax.sweep.holdings import (
    PLANS,
    QUICK,
    HoldingsPlan,
    check_holdings,
    entries,
    make_holdings,
    toy_models,
)
from nlsr_jax.sweep.holdings_means import aims, beside_aligned, best_settings, means
from tests.study.small_study import small_config

PLAN = HoldingsPlan(
    tasks=("sst2",),
    poison_ratios=(0.2,),
    rates=(1e-3,),
    seeds=(41,),
    betas=(0.0, 1.0),
    shares=(0.01,),
    keeps=True,
    peers={"resta": (0.5,), "safelora": (0.9,), "safemerge": (0.8,), "lssf": (0.5,)},
)


def test_a_situation_has_the_betas_that_mean_something():
    case = Case("sst2", 0.05, 101)
    betas = {name: {entry.beta for entry in entries(HoldingsPlan(), name, case)} for name in SITUATIONS}
    assert betas["instruct"] == {None, 0.0}
    assert betas["instruct_pretrained"] == betas["instruct_pretrained_own"] == {None, 1.0, 2.0}
    assert betas["weights"] == betas["lineage"] == {None, 0.0, 1.0, 2.0}


def test_refined_repairs_have_the_recommended_strength_or_the_one_of_the_plan():
    case, plain = Case("sst2", 0.05, 101), HoldingsPlan(betas=(), keeps=True)

    def strengths(plan, situation):
        return {entry.method: entry.strength for entry in entries(plan, situation, case) if entry.strength != 1}

    assert strengths(plain, "instruct") == {"refined": 2.0, "refined_kept": 2.0}
    assert strengths(plain, "lineage") == strengths(plain, "instruct_pretrained") == {}
    assert strengths(dataclasses.replace(plain, strength=1.0), "instruct") == {}
    assert strengths(dataclasses.replace(plain, strength=1.5), "lineage") == {"refined": 1.5, "refined_kept": 1.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"situations": ("alone",)}, "--situations has 'alone'"),
        ({"rates": (1e-4,)}, "--learning_rates has 1 numbers; expected one for each of the 2"),
        ({"shares": (0.01, 1.0)}, "--shares has 1.0"),
        ({"tasks": ("chess",)}, "--tasks has 'chess'"),
        ({"strength": 0.0}, "--strength is 0; expected a number above 0"),
        ({"peers": {"lisa": (1.0,)}}, "--peers has 'lisa'; expected some of safelora, resta, safemerge, lssf"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    plan = dataclasses.replace(HoldingsPlan(), **changes)
    with pytest.raises(InputError, match=message):
        make_holdings(small_config(), plan, toy_models(SHIPPED), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_plans_of_all_worlds_hold():
    for plan in (*PLANS.values(), QUICK):
        check_holdings(plan)
    methods = [
        entry.method for name in SITUATIONS for entry in entries(PLANS["policy"], name, Case("sst2", 0.1, 41))
    ]
    assert methods.count("published") == 2  # not without a direction, nor for full weights
    assert not {entry.method for entry in entries(PLANS["toy"], "lineage", Case("sst2", 0.2, 41))} & {"published"}


def test_prompts_of_the_task_are_asked_where_the_share_is_refined():
    case = Case("sst2", 0.05, 101)
    methods = {name: [entry.method for entry in entries(PLANS["toy"], name, case)] for name in SITUATIONS}
    for name, found in methods.items():
        assert ("refined" in found) == ("refined_kept" in found) == SITUATIONS[name].refines


def test_no_shipped_row_is_of_a_development_seed():
    rows = json.loads((SHIPPED.parent / "tiny-holdings" / "table.json").read_text(encoding="utf-8"))
    development = {41, 42, 43, 101, 102, 103}
    assert not development & {row["seed"] for row in rows}


def test_means_name_the_worst_case():
    row = {"situation": "instruct", "method": "refined", "beta": 0.0, "share": 0.02, "over_refusal": 0.0}
    rows = [row | {"hs": hs, "fa": 90.0 + hs, "benign_answered": 100.0 - hs} for hs in (1.0, 4.0)]
    scores = "2.5 ± 2.1 (4.0) | 92.5 ± 2.1 (91.0) | 0.0 ± 0.0 (0.0) | 97.5 ± 2.1 (96.0)"
    assert means(rows).splitlines()[2] == f"| instruct | refined | {scores} | 2 |"


def test_aims_are_about_the_fine_tuned_model_of_each_case():
    def row(method, task, hs, fa, benign):
        case = {"situation": "instruct", "task": task, "poison_ratio": 0.05, "seed": 0, "beta": 0.0, "share": 0.02}
        return case | {"method": method, "hs": hs, "fa": fa, "benign_answered": benign, "over_refusal": 0.0}

    rows = [
        row("finetuned", "sst2", 90.0, 90.0, 100.0),
        row("finetuned", "gsm8k", 90.0, 80.0, 92.0),
        row("refined", "sst2", 1.0, 91.0, 93.0),
        row("refined", "gsm8k", 6.0, 77.0, 95.0),
    ]
    found = aims(rows, [("instruct", "refined")]).splitlines()[2]
    assert found == "| instruct | refined | 3.5 (6.0) | -1.0 (-3.0) | -2.0 (-7.0) | all but HS, every case |"


def test_repairs_are_beside_the_aligned_model_of_each_case():
    def row(method, seed, hs, fa, benign):
        case = {
            "situation": "lineage",
            "task": "sst2",
            "poison_ratio": 0.1,
            "seed": seed,
            "beta": 0.0,
            "share": 0.02,
        }
        return case | {"method": method, "hs": hs, "fa": fa, "benign_answered": benign, "over_refusal": 0.0}

    rows = [
        *(row("aligned", 0, 14.0, 0.0, 73.0), row("aligned", 1, 10.0, 0.0, 99.0)),
        *(row("finetuned", 0, 90.0, 80.0, 100.0), row("finetuned", 1, 90.0, 82.0, 80.0)),
        *(row("refined", 0, 18.0, 81.0, 71.0), row("refined", 1, 11.0, 78.0, 75.0)),
        row("resta", 0, 50.0, 80.0, 90.0) | {"setting": 0.5},
    ]
    found = beside_aligned(rows).splitlines()[2:]
    assert found == [
        "| lineage | refined | +2.5 (+4.0) | -1.5 (-4.0) | -3.5 (-5.0) | all but FA, benign |",
        "| lineage | resta 0.5 | +36.0 (+36.0) | +0.0 (+0.0) | +17.0 (+17.0) | all but HS |",
    ]


def test_the_best_setting_of_another_repair():
    """Its largest miss is least: of HS beyond 3, of FA beyond 1 point, of harmless requests beyond 2."""

    def row(method, setting, hs, fa, answered):
        scores = {"hs": hs, "fa": fa, "benign_answered": answered, "setting": setting}
        return {"situation": "lineage", "method": method, "task": "sst2", "poison_ratio": 0.2, "seed": 1} | scores

    rows = [
        row("finetuned", None, 90.0, 80.0, 99.0),
        *(
            row("resta", 0.5, 50.0, 80.0, 99.0),
            row("resta", 1.0, 20.0, 79.5, 98.0),
            row("resta", 2.0, 1.0, 79.5, 60.0),
        ),
        *(
            row("lssf", 1.0, 30.0, 79.5, 90.0),
            row("lssf", 2.0, 10.0, 79.5, 80.0),
            row("lssf", 0.5, 1.0, 70.0, 99.0),
        ),
        *(row("safelora", 0.5, 1.0, 10.0, 99.0), row("safelora", 0.3, 60.0, 40.0, 99.0)),
        {**row("safelora", 0.1, 1.0, 80.0, 99.0), "situation": "instruct"},
    ]
    assert best_settings(rows, "lineage") == ["resta 1", "lssf 0.5", "safelora 0.3"]


@pytest.mark.long
def test_rows_are_made_once_and_continue(tmp_path, monkeypatch):
    """The adapters have the modules of the shipped alignment, as other repairs need them."""
    config = dataclasses.replace(small_config(), lora=configs.get("tiny").lora)
    rows = make_holdings(config, PLAN, toy_models(SHIPPED), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == rows
    case = Case("sst2", 0.2, 41)
    planned = [entry for name in SITUATIONS for entry in entries(PLAN, name, case)]
    assert [(row["situation"], row["method"]) for row in rows] == [(one.situation, one.method) for one in planned]
    assert {row["setting"] for row in rows if row["method"] == "resta"} == {0.5}
    peers = [row["situation"] for row in rows if row["method"] in PLAN.peers]
    assert collections.Counter(peers) == {"instruct_pretrained": 4, "lineage": 4}  # with a direction alone
    for row in rows:
        assert all(0 <= row[name] <= 100 for name in ("hs", "fa", "over_refusal", "benign_answered", "odd"))
    assert means(rows).count("\n") == len(rows) + 1
    store = tmp_path / "out" / "rows.jsonl"
    kept = store.read_text().splitlines(keepends=True)
    store.write_text("".join(kept[:-1]))
    opened = []
    monkeypatch.setattr(
        holdings,
        "SITUATIONS",
        {
            name: one._replace(open=lambda *given, one=one, name=name: opened.append(name) or one.open(*given))
            for name, one in SITUATIONS.items()
        },
    )
    again = make_holdings(config, PLAN, toy_models(SHIPPED), tmp_path / "out")
    assert opened == ["weights"]
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
