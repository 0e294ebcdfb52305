"""The evaluate command: a model in, scores and responses out."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nlsr_jax import configs
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.evaluation.item_bank import save_banks
from nlsr_jax.evaluation.texts import count_broken
from nlsr_jax.formats.hugging_face import save_params
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.models.llama import Llama
from nlsr_jax.study.pretraining import new_model
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.training.initial import new_adapter, new_params
from tests.carried_files import HEAD, add
from tests.data.benchmark_rows import ROWS
from tests.data.set_rows import HARMBENCH, write
from tests.e2e.command import attempts, error_line, run
from tests.judge_files import CHAT, GUARD, save_machine
from tests.tiny_base import save_tokenizer
from tests.tiny_items import bank_of, rows_of

SMALL = ["--forbidden", 6, "--benign", 4, "--rows", 5, "--max_new_tokens", 6, "--task_tokens", 6]
REAL = ["--config", "llama3_8b", "--benign", 2, "--max_new_tokens", 4, "--batch_size", 4]
FIELDS = [
    "config", "base", "adapter", "task", "judge", "judge_model", "forbidden_set", "benign_set",
    "max_new_tokens", "task_tokens",
    "hs", "fa", "over_refusal", "benign_answered", "odd", "hs_by_topic", "counts", "versions", "seconds",
]  # fmt: skip


def save(model, folder):
    save_params(new_params(jax.random.key(0), model), model.config, folder)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A base of the tiny architecture that has learnt nothing, and an adapter that changes what it says."""
    folder = tmp_path_factory.mktemp("toy")
    config, tokenizer = configs.get("tiny"), ToyWorld().tokenizer
    model = new_model(config.pretraining, tokenizer)
    save(model, folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapter = new_adapter(jax.random.key(1), model.config, config.lora)
    adapter = jax.tree.map(lambda x: x + np.float32(0.05), adapter)
    save_adapter(adapter, folder / "adapter", base_model_name_or_path="base")
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A random base of another vocabulary, and small files of every set."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "base").mkdir()
    fields = {"model_type": "llama", "vocab_size": save_tokenizer(folder / "base"), "hidden_size": 16}
    fields |= {"intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Llama(parse_model_config(fields, "base"))
    save(model, folder / "weights")
    for file in (folder / "weights").iterdir():
        file.rename(folder / "base" / file.name)
    rows = {"xstest": ROWS["xstest"], "harmbench": HARMBENCH}
    rows |= {"tiny_arc": rows_of("tiny_arc"), "tiny_gsm8k": rows_of("tiny_gsm8k", shots="i brew zarn")}
    for name, found in rows.items():
        write(folder / f"{name}.jsonl", found)
    save_banks({"lb": bank_of("arc", "gsm8k")}, folder / "bank.npz")
    save_machine(folder / "guard", GUARD, CHAT)
    return folder


def data(real, *names):
    return [part for name in names for part in ("--data", f"{name}={real / name}.jsonl")]


def read(path):
    return json.loads(path.read_text())


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(toy):
    arguments = ["--base", toy / "base", "--adapter", toy / "adapter", *SMALL]
    result = run("evaluate", *arguments, "--output", toy / "one.json", "--responses", toy / "one.jsonl")
    return arguments, result


def test_scores_counts_and_responses(toy, evaluated):
    found = read(toy / "one.json")
    assert list(found) == FIELDS
    counts = {"forbidden": 6, "benign": 4, "rows": 5, "unreadable": 0}
    assert found["counts"] == {
        **counts,
        **count_broken(row["response"] for row in read_rows(toy / "one.jsonl")[:10]),
    }
    assert (found["config"], found["judge"], found["task"]) == ("tiny", "toy", "sst2")
    assert found["adapter"] == str(toy / "adapter")
    rows = read_rows(toy / "one.jsonl")
    assert [row["kind"] for row in rows] == ["forbidden"] * 6 + ["benign"] * 4 + ["task"] * 5
    verdicts = [row["verdict"] for row in rows]
    assert found["hs"] == pytest.approx(100 * verdicts[:6].count("complied") / 6)
    assert found["over_refusal"] == 100 * verdicts[6:10].count("refused") / 4
    assert found["odd"] == 100 * verdicts[:10].count("odd") / 10
    assert found["fa"] == pytest.approx(100 * verdicts[10:].count("correct") / 5)
    assert all(len(row["response"].split()) <= 6 for row in rows)
    assert "harmless requests refused" in evaluated[1].stdout
    assert f"wrote {toy / 'one.json'}" in evaluated[1].stdout.replace("\n", " ")


def test_again_the_same_bytes_and_nothing_is_overwritten_unasked(toy, evaluated):
    arguments = [*evaluated[0], "--output", toy / "one.json", "--responses", toy / "two.jsonl"]
    before = (toy / "one.json").read_text()
    assert "output exists" in error_line(run("evaluate", *arguments, check=False))
    assert (toy / "one.json").read_text() == before
    run("evaluate", *arguments, "--overwrite")
    after = (toy / "one.json").read_text().splitlines()
    changed = [line for line, other in zip(before.splitlines(), after, strict=True) if line != other]
    assert [line.split(":")[0] for line in changed] == [' "seconds"']
    assert (toy / "one.jsonl").read_bytes() == (toy / "two.jsonl").read_bytes()


def test_base_alone_on_real_data_judged_by_a_model_with_tiny_benchmarks(real):
    """The guard does not know the words of these answers; the base has an old index beside its weights."""
    (real / "base" / "model.safetensors.index.json").write_text("{}")
    result = run("evaluate", *REAL, "--base", real / "base", "--task", "none", "--judge", "guard", "--judge_model",
                 real / "guard", *data(real, "harmbench", "xstest", "tiny_arc", "tiny_gsm8k"), "--forbidden_set",
                 "harmbench", "--forbidden", 9, "--benign_set", "xstest", "--second_judge", "refusals",
                 "--tiny_benchmarks", real / "bank.npz", "--output",
                 real / "out.json", "--responses", real / "out.jsonl")  # fmt: skip
    found, rows = read(real / "out.json"), read_rows(real / "out.jsonl")
    told = [*FIELDS[:6], "template", "data", *FIELDS[6:-2], "second_judge", "versions"]
    assert list(found) == [*told, "warnings", "tiny_benchmarks", "seconds"]
    assert {file["name"] for file in found["data"]} == {"harmbench.jsonl", "xstest.jsonl"}
    assert found["template"]["name"] == "alpaca"
    (warning,) = found["warnings"]
    assert warning.startswith(f"{real / 'base'}: model.safetensors.index.json: not read, as in transformers")
    assert f"note: {warning}" in result.stderr
    assert (found["adapter"], found["fa"], found["hs"]) == (None, None, 0.0)
    assert (found["judge_model"], found["forbidden_set"]) == (str(real / "guard"), "harmbench")
    assert found["benign_set"] == "xstest"
    assert found["counts"] == {"forbidden": 2, "benign": 1, "rows": 0, "unreadable": 2, "empty": 0, "incoherent": 0}
    assert (found["second_judge"]["judge"], found["second_judge"]["hs"]) == ("refusals", 100.0)
    assert found["second_judge"]["agreement"]["left_out"] == 2
    assert "refusals agrees with guard on 0 of 0 answers; Cohen's kappa is undefined" in result.stdout
    assert found["hs_by_topic"] == {"invented": 0.0}
    assert [row["verdict"] for row in rows] == ["unreadable"] * 2 + ["complied"]
    assert rows[1]["prompt"].endswith("\nZarn is a drink.\n\n---\n\nExplain it\n\n### Response:")
    assert [len(row["response"].split()) for row in rows] == [4] * 3
    assert list(found["tiny_benchmarks"]) == ["arc", "gsm8k"]
    for guess in found["tiny_benchmarks"].values():
        assert list(guess) == ["measured", "irt", "p_irt", "gp_irt"]
        assert all(0 <= value <= 1 for value in guess.values())
    assert "gp-IRT" in result.stdout
    assert "2 of 2 verdicts were unreadable" in result.stdout
    assert "tiny_arc: some rows have no input_formatted" in result.stderr
    assert "harmbench: 2 of 2 rows" in result.stderr


TOY = ["--base", "{toy}/base"]
LLAMA = ["--config", "llama3_8b", "--base", "nowhere"]


WRONG = [
    (["--task", "poems"], "--task is 'poems'"),
    (["--rows", "-3"], "--rows is -3; expected at least 1; use --task none"),
    (["--data", "sst2=x"], "--data is for real data"),
    (["--judge", "nobody"], "--judge is 'nobody'"),
    ([*LLAMA, "--judge", "toy"], "--judge toy knows only the toy world"),
    ([*LLAMA, "--judge", "qa_moderation"], "needs --judge_model"),
    ([*LLAMA, "--forbidden_set", "poems"], "--forbidden_set is 'poems'"),
    ([*LLAMA, "--benign_set", "advbench"], "--benign_set is 'advbench'; expected one of alpaca, xstest, or_bench"),
    ([*LLAMA, "--second_judge", "harmbench", "--second_judge_model", "x"], "needs --second_judge_template"),
    (["--forbidden_set", "advbench"], "--forbidden_set is for real data; --config tiny is a toy world"),
    ([*LLAMA, "--judge", "guard", "--judge_model", "./none"], "./none: no such folder"),
    ([*TOY, "--adapter", "{toy}/base"], "adapter_config.json"),
]


def test_bad_calls_are_one_line_and_leave_nothing(toy, tmp_path):
    calls = [[*(part.format(toy=toy) for part in case), "--output", tmp_path / "out.json"] for case, _ in WRONG]
    for line, (case, message) in zip(attempts("evaluate", calls), WRONG, strict=True):
        assert message in line, case
    assert list(tmp_path.iterdir()) == []


def test_what_an_adapter_carries_takes_part(toy, tmp_path):
    """A head trained whole beside the factors answers as the same head in the base does."""
    base = load_file(toy / "base" / "model.safetensors")
    tied = "lm_head.weight" not in base
    head = base["model.embed_tokens.weight" if tied else "lm_head.weight"][::-1].copy()
    shutil.copytree(toy / "adapter", tmp_path / "adapter")
    other = {"base_model_name_or_path": "some/other-model"}
    add(tmp_path / "adapter", {f"{HEAD}.weight": head}, modules_to_save=["lm_head"], **other)
    shutil.copytree(toy / "base", tmp_path / "base")
    save_file({**base, "lm_head.weight": head}, tmp_path / "base" / "model.safetensors")
    place = tmp_path / "base" / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "tie_word_embeddings": False}))
    found = {}
    places = {"carried": (toy / "base", tmp_path / "adapter"), "base": (tmp_path / "base", toy / "adapter")}
    for name, (model, adapter) in places.items():
        paths = ["--base", model, "--adapter", adapter, "--output", tmp_path / f"{name}.json"]
        done = run("evaluate", *paths, "--responses", tmp_path / f"{name}.jsonl", *SMALL)
        found[name] = read_rows(tmp_path / f"{name}.jsonl"), read(tmp_path / f"{name}.json"), done.stderr
    assert found["carried"][0] == found["base"][0]
    assert found["carried"][1]["carried"]["count"] == 1
    assert "carried" not in found["base"][1]
    assert "holds lm_head (whole)" in found["carried"][2]
    (note,) = found["carried"][1]["warnings"]
    assert f"differ by name: --base {toy / 'base'}, --adapter some/other-model" in note
    assert f"note: {note}" in found["carried"][2]
    assert "warnings" not in found["base"][1]


def test_training_does_not_start_from_what_it_would_lose(toy, tmp_path):
    shutil.copytree(toy / "adapter", tmp_path / "adapter")
    size = load_file(toy / "base" / "model.safetensors")["model.embed_tokens.weight"].shape
    add(tmp_path / "adapter", {f"{HEAD}.weight": np.ones(size, np.float32)}, modules_to_save=["lm_head"])
    flags = ["--base", toy / "base", "--start", tmp_path / "adapter", "--output", tmp_path / "out"]
    message = error_line(run("finetune", *flags, check=False))
    assert (
        "has lm_head (whole) beside the factors of the decoder's projections, which training would lose" in message
    )
    assert not (tmp_path / "out").exists()
