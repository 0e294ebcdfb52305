"""Logs of two harnesses become rows of one table; what is no log, or has no results, is one line."""

import json
import zipfile

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.harnesses.logs import COLUMNS, read_logs
from nlsr_jax.study.exam import Scores
from tests.e2e.command import error_line, python

LM_EVAL = {
    "results": {
        "sst2": {"alias": "sst2", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.25, "sample_len": 4},
        "wiki": {"word_perplexity,none": 44.5, "word_perplexity_stderr,none": "N/A", "broken,none": float("nan")},
    },
    "n-samples": {"sst2": {"original": 8, "effective": 4}},
    "config": {
        "model": "nlsr",
        "model_args": {},
        "base": "/models/base",
        "adapter": "runs/repaired",
        "random_seed": 0,
    },
    "lm_eval_version": "0.4.13",
    "total_evaluation_time_seconds": "2.5",
}
INSPECT = {
    "version": 2,
    "status": "success",
    "eval": {
        "task": "refusals",
        "model": "nlsr/runs/repaired",
        "model_generate_config": {"seed": 3},
        "packages": {"inspect_ai": "0.3.285"},
    },
    "results": {
        "completed_samples": 40,
        "scores": [
            {
                "name": "match",
                "scored_samples": 39,
                "metrics": {"accuracy": {"name": "accuracy", "value": 0.05}, "stderr": {"value": 0.01}},
            }
        ],
    },
    "stats": {"started_at": "2026-11-30T03:42:58+00:00", "completed_at": "2026-11-30T03:43:20+00:00"},
}


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "results_1.json").write_text(json.dumps(LM_EVAL))
    (tmp_path / "log.json").write_text(json.dumps(INSPECT))
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as file:
        file.writestr("header.json", json.dumps(INSPECT))
    return tmp_path


def test_every_metric_has_a_row_and_each_task_one_score(logs):
    rows = read_logs([logs / "results_1.json"])
    found = [(row["task"], row["metric"], row["value"], row["stderr"], row["fa"], row["rows"]) for row in rows]
    assert found == [
        ("sst2", "acc", 0.5, 0.1, 50, 4),
        ("sst2", "acc_norm", 0.25, None, None, 4),
        ("wiki", "word_perplexity", 44.5, None, None, None),
    ]
    assert {(row["method"], row["seconds"], row["harness"]) for row in rows} == {
        ("repaired", 2.5, "lm_eval 0.4.13")
    }
    shared = {"method", "task", "poison_ratio", "seed", "seconds", *Scores._fields} & set(rows[0])
    assert set(rows[0]) == {*COLUMNS, *shared}


def test_zipped_and_plain_logs_of_inspect_say_the_same(logs):
    (plain,) = read_logs([logs / "log.json"], column="hs", method="nlsr")
    assert read_logs([logs / "log.eval"], column="hs", method="nlsr") == [plain]
    assert (plain["hs"], plain["fa"], plain["rows"], plain["seed"], plain["seconds"]) == (5, None, 39, 3, 22)
    assert (plain["model"], plain["method"]) == ("runs/repaired", "nlsr")
    assert len(read_logs([logs])) == 4  # the folder's results file and its zipped log


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.json", json.dumps({**INSPECT, "status": "error"}), "has the status 'error'; expected 'success'"),
        ("log.json", json.dumps({**INSPECT, "results": [3]}), "not laid out as a log of a harness"),
        ("log.json", json.dumps({**LM_EVAL, "results": {"sst2": 3}}), "not laid out as a log of a harness"),
        ("log.json", "[3]", "not a log of lm-evaluation-harness or inspect_ai"),
        ("log.json", "3", "not laid out as a log of a harness"),
        ("log.eval", "text", "not a zipped log of inspect_ai"),
        ("other.json", None, "no such file"),
    ],
)
def test_what_is_no_log_is_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_logs([tmp_path / name])


def test_command(logs):
    given = ["-m", "nlsr_jax", "harness", logs / "log.json", "--output", logs / "table.json"]
    assert "refusals" in python(*given).stdout
    assert [row["fa"] for row in json.loads((logs / "table.json").read_text())] == [5.0]
    assert "output exists" in error_line(python(*given, check=False))
    python(*given, "--overwrite")
    (logs / "table.json").write_text("[3]")
    assert "is not a table of nlsr harness" in error_line(python(*given, "--overwrite", check=False))
