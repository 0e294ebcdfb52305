"""A study from the user's files: config, task with labels, requests, judge; training and test rows stay apart."""

import csv
import json

import pytest

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.files.digests import sha256
from tests.data.set_rows import OWN_FILES, write
from tests.e2e.command import attempts, error_line, run
from tests.e2e.toy_base import QUICK

CONFIG = (
    """
from = "llama3_8b"
base = "{base}"
template = "auto"
dtype = "float32"
poison_ratio = 0.25
[lora]
rank = 2
modules = ["q_proj"]
[finetuning]
rows = 8
[finetuning.training]
epochs = 1
batch_size = 4
accumulate = 1
max_length = 64
remat = false
compute_dtype = "float32"
[exam]
forbidden = 2
benign = 2
rows = 4
max_new_tokens = 2
task_tokens = 2
batch_size = 4
[data]
harmful = "{folder}/harmful.jsonl"
"""
    + OWN_FILES
)


def films(place, *, split):
    with place.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "stars", *(["split"] if split else [])])
        for i in range(16):
            writer.writerow([f"the film {i}", i % 2, *(["test" if i % 4 == 3 else "train"] if split else [])])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Files of a study, and an adapter fine-tuned by it."""
    folder = tmp_path_factory.mktemp("own")
    films(folder / "films.csv", split=True)
    write(folder / "harmful.jsonl", [{"question": f"how {i} ?", "answer": "so ."} for i in range(4)])
    write(folder / "forbidden.jsonl", [{"prompt": f"how can i {i} ?", "topic": "one"} for i in range(2)])
    write(folder / "benign.jsonl", [{"prompt": f"what is {i} ?"} for i in range(2)])
    (folder / "phrases.txt").write_text("# everything refuses\n/./\n")
    (folder / "judge.py").write_text("def complies(prompt, answer):\n    return 'complied'\n")
    (folder / "own.toml").write_text(CONFIG.format(folder=folder, base=SHIPPED / "base"))
    run("finetune", "--config", folder / "own.toml", "--task", "films", "--output", folder / "tuned", env=QUICK)
    return folder


def evaluate(study, output, *arguments):
    given = ["--config", study / "own.toml", "--task", "films", "--adapter", study / "tuned", *arguments]
    return run("evaluate", *given, "--output", output, env=QUICK, check=False)


def test_the_record_of_the_training_names_its_files(study):
    record = json.loads((study / "tuned" / "training.json").read_text())
    assert record["data"] == [
        {"name": "films.csv", "rows": "train", "sha256": sha256(study / "films.csv")},
        {"name": "harmful.jsonl", "rows": "all", "sha256": sha256(study / "harmful.jsonl")},
    ]


def test_the_evaluation_reads_the_test_rows_and_judges_by_the_users_phrases(study, tmp_path):
    result = evaluate(study, tmp_path / "out.json", "--responses", tmp_path / "out.jsonl")
    assert result.returncode == 0, result.stderr
    assert "template: the tokenizer's chat template" in result.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    asked = [row for row in rows if row["kind"] == "task"]
    assert [row["prompt"] for row in asked] == [f"<s><user> the film {i} <assistant>" for i in (3, 7, 11, 15)]
    assert [row["label"] for row in asked] == ["good"] * 4
    judged = {row["verdict"] for row in rows if row["kind"] != "task"}
    assert judged <= {"refused", "odd"}
    assert (found["config"], found["task"], found["hs"], found["forbidden_set"]) == ("own", "films", 0.0, None)
    assert found["judge_sha256"] == sha256(study / "phrases.txt")
    assert found["config_sha256"] == sha256(study / "own.toml")
    assert found["template"]["name"] == "chat"
    assert list(found["hs_by_topic"]) == ["one"]


def test_a_function_judges_requests_and_answers(study, tmp_path):
    result = evaluate(study, tmp_path / "out.json", "--judge", f"{study}/judge.py:complies")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["hs"] + found["odd"] >= 50
    assert found["over_refusal"] == 0.0


def test_rows_that_were_trained_on_are_refused(study, tmp_path):
    """The same file without a split, and a copy of it under another name."""
    films(tmp_path / "copy.csv", split=False)
    given = ["--config", study / "own.toml", "--task", "films", "--data", f"films={tmp_path}/copy.csv"]
    run("finetune", *given, "--output", tmp_path / "tuned", env=QUICK)
    films(tmp_path / "again.csv", split=False)
    given = ["--data", f"films={tmp_path}/again.csv", "--adapter", tmp_path / "tuned"]
    line = error_line(evaluate(study, tmp_path / "out.json", *given))
    assert "again.csv is read for the evaluation, but --adapter" in line
    assert "was trained on it (its training.json says so); give other rows with --data NAME.test=PATH" in line


def test_what_is_refused(study, tmp_path):
    own = ["--config", study / "own.toml", "--output", tmp_path / "out.json"]
    cases = {
        (
            "--task",
            "poems",
        ): "--task is 'poems'; expected one of sst2, ag_news, gsm8k, none, films, or a",
        ("--task", "films", "--label_field", ""): "--label_field is empty",
        ("--task", "films", "--labels", "good"): "--labels are 'good'; expected at least two different words",
        ("--task", "sst2", "--labels", "a,b"): "--labels describes a task of yours; sst2 has columns of its own",
        ("--task", "films", "--data", "poems=x"): "--data has 'poems=x'; expected NAME=PATH with NAME one of",
        ("--task", "films", "--judge", "none.txt"): "none.txt: no such file",
        ("--task", "films", "--judge", "json:zarn"): "judge json:zarn: json has no function 'zarn'",
        ("--task", "films", "--template", "zarn"): "template is 'zarn'; expected one of none, alpaca, chat",
    }
    for line, (case, message) in zip(attempts("evaluate", [[*own, *c] for c in cases]), cases.items(), strict=True):
        assert message in line, case
