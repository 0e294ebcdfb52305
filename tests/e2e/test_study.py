"""The programs of a study as a user types them, in small: pretrain, align, finetune."""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import nlsr_jax
from nlsr_jax.files.ownership import foreign_folder
from nlsr_jax.formats.peft import save_adapter
from tests.data.set_rows import BEAVERTAILS, SST2, write
from tests.e2e.command import attempts, contents, error_line, run
from tests.e2e.toy_base import QUICK, save_toy_base
from tests.oracles import random_adapter
from tests.own_outputs import save_training
from tests.tiny_base import save_base as save_other_base

pytestmark = pytest.mark.slow
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "training.json"}


def train(name, *arguments):
    return run(name, *arguments, env=QUICK)


def pretrain(output):
    return train("pretrain", "--documents", 96, "--learning_rate", 1e-2, "--output", output)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A base, its weak and its aligned adapter and one fine-tuned on poisoned rows."""
    folder = tmp_path_factory.mktemp("study")
    pretrain(folder / "base")
    base = ["--base", folder / "base"]
    train("align", *base, "--objective", "sft", "--rows", 32, "--rank", 4, "--output", folder / "sft")
    dpo = ["--objective", "dpo", "--start", folder / "sft", "--rows", 32]
    train("align", *base, *dpo, "--output", folder / "dpo")
    tuned = ["--start", folder / "dpo", "--rows", 40, "--poison_ratio", 0.25, "--learning_rate", 1e-3]
    train("finetune", *base, *tuned, "--save_every", 7, "--output", folder / "tuned")
    return folder


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_same(first, second):
    """Compare all files, the logged lines without their times."""
    found, expected = contents(first), contents(second)
    for files in (found, expected):
        lines = [json.loads(line) for line in files.pop("metrics.jsonl").splitlines()]
        assert all(line.pop("tokens_per_second") > 0 for line in lines)
        files["metrics"] = lines
    assert found == expected


def test_every_output_is_whole_and_nothing_else_is_left(study):
    assert {path.name for path in study.iterdir()} == {"base", "sft", "dpo", "tuned"}
    for output in study.iterdir():
        assert foreign_folder(output) is None, "it could not be made again with --overwrite"
    for name in ("sft", "dpo", "tuned"):
        assert {path.name for path in (study / name).iterdir()} == ADAPTER
        config = json.loads((study / name / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (4, 8)
        assert config["base_model_name_or_path"] == str(study / "base")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (study / "base").iterdir()}


def test_what_was_trained_is_said(study):
    steps = {"base": 3, "sft": 2, "dpo": 4, "tuned": 25}
    for name, last in steps.items():
        lines = metrics(study / name)
        assert (lines[0]["step"], lines[-1]["step"]) == (1, last)
        assert all(np.isfinite(list(line.values())).all() for line in lines)
    first, last = metrics(study / "base")[0], metrics(study / "base")[-1]
    assert last["loss"] < first["loss"]
    settings = json.loads((study / "dpo" / "training.json").read_text())
    assert (settings["stage"], settings["seed"]) == ("align dpo", 0)
    assert settings["settings"]["objective"] == "dpo"
    assert set(metrics(study / "dpo")[0]) > {"accuracy", "margin"}
    assert metrics(study / "dpo")[0]["loss"] == pytest.approx(np.log(2), abs=1e-5), "the reference is the start"
    assert json.loads((study / "tuned" / "training.json").read_text())["stage"] == "finetune sst2"


def test_each_stage_goes_on_from_the_one_before(study):
    adapters = [nlsr_jax.load_adapter(study / name) for name in ("sft", "dpo", "tuned")]
    assert not all((np.asarray(leaf["b"]) == 0).all() for leaf in adapters[0].factors.values())
    for before, after in itertools.pairwise(adapters):
        for module, factors in before.factors.items():
            old, new = np.asarray(factors["a"]), np.asarray(after.factors[module]["a"])
            assert (old != new).any()
            # Drawn apart, factors of this size have a cosine near 0.
            assert np.vdot(old, new) > 0.9 * np.linalg.norm(old) * np.linalg.norm(new)


def test_outputs_load_in_transformers_and_peft(study):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(study / "base")
    turns = [{"role": "user", "content": "how do i please"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    model, params = nlsr_jax.load_model(study / "base")
    tokens = np.asarray([ids], np.int32)
    for name in (None, "sft", "dpo", "tuned"):
        peer, adapter = AutoModelForCausalLM.from_pretrained(study / "base"), None
        if name:
            peer, adapter = PeftModel.from_pretrained(peer, study / name), nlsr_jax.load_adapter(study / name)
            saved = load_file(study / name / "adapter_model.safetensors")
            loaded = {key: value for key, value in peer.named_parameters() if "lora_" in key}
            assert len(loaded) == len(saved) == 6 * 7 * 2
        if name in (None, "tuned"):
            with torch.no_grad():
                expected = peer(torch.tensor([ids])).logits.numpy()
            found = nlsr_jax.logits(model, params, tokens, adapter=adapter)
            np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_same_command_gives_the_same_bytes(study, tmp_path):
    """That two runs of an alignment do is seen where one of them is killed."""
    pretrain(tmp_path / "base")
    check_same(tmp_path / "base", study / "base")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What wrong commands are given."""
    folder = tmp_path_factory.mktemp("files")
    save_toy_base(folder / "base")
    save_other_base(folder / "other")
    save_adapter(random_adapter(0, layers=2, rank=2), folder / "adapter")
    write(folder / "sst2.jsonl", SST2)
    write(folder / "harm.jsonl", BEAVERTAILS)
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("x")
    return folder


GIVEN = {"align": "--base {files}/base --output {files}/out", "pretrain": "--output {files}/out"}
GIVEN["finetune"] = GIVEN["align"]
WRONG = {
    "align": {
        "--output=": "--output is missing; name the folder to write",
        "--output {files}/full": "{files}/full: output exists; name another or give --overwrite",
        "--output {files}/sst2.jsonl": "{files}/sst2.jsonl: exists and is not a folder",
        "--base {files}/none": "{files}/none: no such folder; expected a Hugging Face model directory or a hub id",
        "--base {files}/full": "{files}/full/config.json: no such file",
        "--base {files}": "{files}/out: lies in the input --base ({files}); name another output",
        "--output {files}/base --overwrite": "{files}/base: is the input --base ({files}/base); name",
        "--output {files} --overwrite": "{files}: holds the input --base ({files}/base); name another output",
        "--output {files}/full --overwrite": (
            "{files}/full: --overwrite replaces only what nlsr_jax has written, and this folder holds mine and no "
            "realignment.json or identification.json or training.json or check.json; name another output, or move "
            "what is there"
        ),
        "--base {files}/other": "{files}/other: its tokenizer is not the toy world's; give a base made with",
        "--config big": "--config is 'big'; expected one of llama3_8b, mistral_7b, qwen2_7b, smollm2, tiny",
        "--start {files}/none": "{files}/none: no such folder; expected a PEFT adapter directory",
        "--start {files}/adapter": "{files}/adapter: q_proj maps 24 features to 24, the model's maps 32 to 32",
        "--start {files}/adapter --rank 2": "--rank is for a new adapter, but --start continues",
        "--rank 0": "rank is 0; expected at least 1",
        "--alpha nan": "alpha is nan; expected a number above 0",
        "--modules lm_head": "modules are lm_head; expected some of q_proj, k_proj",
        "--seed -1": "--seed is -1; expected 0 to 4294967295",
        "--rows 0": "--rows is 0; expected at least 1",
        "--learning_rate 0": "learning_rate is 0.0; expected a number above 0",
        "--epochs 0": "epochs is 0; expected a whole number, at least 1",
        "--batch_size 0": "batch_size is 0; expected a whole number, at least 1",
        "--accumulate 0": "accumulate is 0; expected a whole number, at least 1",
        "--accumulate 3": "batch_size 8 cannot be split into 3 equal parts",
        "--save_every -1": "save_every is -1; expected a whole number, at least 0",
        "--max_length 3": "none of the 800 rows fits max_length 3; raise it",
        "--beta 0": "beta is 0.0; expected a number above 0",
        "--beta 1 --objective sft": "--beta is for the preference objectives; --objective sft does not use it",
        "--rows 1 --objective kto": "--rows is 1; --objective kto needs at least 2",
        "more": "unexpected argument 'more'; all inputs are flags",
    },
    "finetune": {
        "--poison_ratio 1.5": "ratio is 1.5; expected a number from 0 to 1",
        "--data sst2": "--data has 'sst2'; expected NAME=PATH with NAME one of",
        "--data x=y": "--data has 'x=y'; expected NAME=PATH with NAME one of",
        "--data sst2={files}/sst2.jsonl": "--data is for real data; --config tiny is a toy world",
        "--config llama3_8b --base {files}/other --poison_ratio 0 --data sst2={files}/no.jsonl": (
            "{files}/no.jsonl: no such file; expected JSONL, JSON, CSV or Parquet"
        ),
        "--config llama3_8b --base {files}/other --poison_ratio 0 --data sst2={files}/sst2.jsonl": (
            "{files}/sst2.jsonl: 1000 rows requested, but only "
        ),
    },
    "pretrain": {
        "--config llama3_8b": "--config llama3_8b uses an existing base (meta-llama/",
        "--documents 0": "--documents is 0; expected at least 1",
        "--base {files}/base": "--base is for the other commands; a base is trained from scratch",
        "--output {files}/full": "{files}/full: output exists; name another or give --overwrite",
        "--texts sst3": "unknown data set 'sst3'; expected one of beavertails_safe",
        "--texts sst2 --data sst2={files}/no.jsonl": "{files}/no.jsonl: no such file; expected JSONL, JSON, CSV or",
        "--texts sst2 --data sst2={files}/base": "{files}/base: has no Parquet files",
        "--texts sst2 --data ag_news=x": "--data names ag_news, but --texts does not",
        "--data sst2=x": "--data names sst2, but --texts does not",
        "--texts sst2 --vocabulary 100": "vocabulary is 100; expected at least 259 for the special tokens and",
        "--texts sst2 --data sst2={files}/sst2.jsonl --documents 99": "{files}/sst2.jsonl: 99 rows requested, but",
        "--texts beavertails_harmful --data beavertails_harmful={files}/harm.jsonl": (
            "data set beavertails_harmful has no harmless prompts with answers; name a task set such as sst2"
        ),
        "--texts sst2 --data sst2={files}/sst2.jsonl --max_length 9": "none of ",
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_ends_in_one_line_and_makes_nothing(files, name):
    """All wrong calls of a program in one process."""
    calls = [f"{GIVEN[name]} {case}".format(files=files).split() for case in WRONG[name]]
    for line, (case, message) in zip(attempts(name, calls), WRONG[name].items(), strict=True):
        assert line.startswith("error: " + message.format(files=files)), case
    assert {path.name for path in files.iterdir()} == {
        "base",
        "other",
        "adapter",
        "sst2.jsonl",
        "harm.jsonl",
        "full",
    }
    assert contents(files / "full") == {"mine": b"x"}


def test_the_run_folder_of_another_run_is_refused_by_what_differs(study, tmp_path):
    work = tmp_path / "out.training"
    work.mkdir()
    kept = json.loads((study / "tuned" / "training.json").read_text())
    del kept["outputs"]
    (work / "run.json").write_text(json.dumps(kept))
    kept = contents(save_training(tmp_path / "out"))
    arguments = ["--base", study / "base", "--start", study / "dpo", "--rows", 40, "--poison_ratio", 0.25]
    arguments += ["--epochs", 2, "--overwrite", "--output", tmp_path / "out"]
    line = error_line(run("finetune", *arguments, check=False))
    assert line == (
        f"error: {work}: contains a training run with a different epochs, learning_rate; "
        "remove it or name another output"
    )
    assert contents(tmp_path / "out") == kept
    assert [path.name for path in work.iterdir()] == ["run.json"]
