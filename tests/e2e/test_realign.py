"""The realign command from files to files."""

import concurrent.futures
import hashlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from nlsr_jax.errors import InputError
from nlsr_jax.pipeline import Settings, realign_files
from tests.adapter_files import flags, save_inputs
from tests.e2e.command import attempts, contents, error_line, free_port, run

EIGHT = "--xla_force_host_platform_device_count=8"
OUTPUTS = ("adapter_config.json", "adapter_model.safetensors", "masks.safetensors", "report.html")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_inputs(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def realigned(files):
    """A run of the main job: base, three adapters, calibration data."""
    run("realign", *main_job(files), "--output", files / "out")
    return files / "out"


def main_job(files):
    adapters = flags(files, "base", "aligned", "finetuned", "weak")
    return [*adapters, "--calibration", files / "rows.jsonl", "--base_probability", "0.3"]


def realign_here(files, output, **changes):
    """Realign without data in this process, which is faster than the command."""
    return realign_files(Settings(**{**_two(files), "method": "magnitude", **changes}), output)


def _two(files):
    return {name: str(files / name) for name in ("aligned", "finetuned")}


def same_bytes(first, second, names=OUTPUTS):
    first, second = contents(first), contents(second)
    for name in names:
        assert first[name] == second[name], name


def test_main_job_writes_everything(realigned):
    record = json.loads((realigned / "realignment.json").read_text())
    assert {p.name for p in realigned.iterdir()} == {*OUTPUTS, "README.md", "realignment.json", "checkpoint"}
    assert record["summary"]["modules"] == 6
    assert 0 < record["summary"]["repaired"] < 6
    assert record["calibration"]["used"] == 12
    assert record["key"]["seed"] == 0
    assert all(record["inputs"][name]["files"] for name in ("base", "aligned", "finetuned", "weak", "calibration"))
    assert record["seconds"]["calibrate"] > 0
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents(realigned).items()}
    assert record["outputs"] == {name: digest for name, digest in found.items() if name != "realignment.json"}


def test_modules_left_alone_are_bit_for_bit_the_inputs_and_repaired_ones_are_mixed(files, realigned):
    before = load_file(files / "finetuned" / "adapter_model.safetensors")
    after = load_file(realigned / "adapter_model.safetensors")
    masks = load_file(realigned / "masks.safetensors")
    assert before.keys() == after.keys()
    for entry in json.loads((realigned / "realignment.json").read_text())["modules"]:
        part = f"layers.{entry['layer']}."
        for factor in "ab":
            (name,) = (n for n in before if part in n and f"{entry['module']}.lora_{factor.upper()}" in n)
            mask = masks[f"{entry['module']}.{factor}"][entry["layer"]]
            assert mask.sum() == entry[f"kept_{factor}"] == round(0.2 * mask.size)
            if entry["pruned"]:
                np.testing.assert_array_equal(before[name], after[name])
            else:
                np.testing.assert_array_equal(before[name] != after[name], mask)


def test_result_loads_in_peft(files, realigned):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(files / "base"), realigned)
    after = load_file(realigned / "adapter_model.safetensors")
    loaded = {name: value for name, value in model.named_parameters() if "lora_" in name}
    assert len(loaded) == len(after)
    for name, value in loaded.items():
        np.testing.assert_array_equal(value.detach().numpy(), after[name.replace(".default", "")])


def test_again_from_the_record_and_with_given_masks_the_same_bytes(files, realigned):
    run("realign", "--from_record", realigned / "realignment.json", "--output", files / "again")
    same_bytes(realigned, files / "again")
    given = {"weak": str(files / "weak"), "masks": str(realigned), "base_probability": 0.3, "method": "low_rank"}
    realign_here(files, files / "given", **given)
    first, second = contents(realigned), contents(files / "given")
    assert first["adapter_model.safetensors"] == second["adapter_model.safetensors"]


def test_a_mesh_gives_the_same_bytes(files, realigned):
    run("realign", *main_job(files), "--mesh", "2,2,2", "--output", files / "mesh", env={"XLA_FLAGS": EIGHT})
    assert json.loads((files / "mesh" / "realignment.json").read_text())["device"]["count"] == 8
    same_bytes(realigned, files / "mesh", OUTPUTS[:3])  # the page names the devices


def test_two_processes_give_the_same_bytes(files, realigned):
    hosts = ["--mesh", "1,2,1", "--coordinator", free_port(), "--processes", "2", "--output", files / "two"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        started = [
            pool.submit(run, "realign", *main_job(files), *hosts, "--process", process, env={"XLA_FLAGS": ""})
            for process in (0, 1)
        ]
        first, second = (one.result() for one in started)
    assert "repaired" in first.stdout
    assert "repaired" not in second.stdout
    same_bytes(realigned, files / "two", OUTPUTS[:3])


WRONG_MESHES = {
    "--mesh 2,2": "--mesh is 2,2; expected three whole numbers",
    "--mesh 1,3,1": "mesh (1, 3, 1) needs 3 devices",
    "--coordinator 127.0.0.1:1": "--coordinator needs --processes, which is missing",
    "--coordinator 127.0.0.1:1 --distributed": "--coordinator is given together with --distributed",
}


def test_a_mesh_that_cannot_be_is_named(files):
    calls = [[*main_job(files), *given.split(), "--output", files / "none"] for given in WRONG_MESHES]
    for line, message in zip(attempts("realign", calls), WRONG_MESHES.values(), strict=True):
        assert message in line
    assert not (files / "none").exists()


def test_processes_that_cannot_be_joined_are_named(files):
    result = run("realign", *main_job(files), "--distributed", "--output", files / "none", check=False)
    assert "the processes cannot be joined" in error_line(result)
    assert not (files / "none").exists()


def test_checkpoint_holds_masks_and_pruning_key(realigned):
    import jax

    from nlsr_jax.formats.checkpoint import restore_checkpoint

    masks, key = restore_checkpoint(realigned / "checkpoint")
    stored = load_file(realigned / "masks.safetensors")
    for module, leaves in masks.items():
        for factor, mask in leaves.items():
            np.testing.assert_array_equal(mask, stored[f"{module}.{factor}"])
    record = json.loads((realigned / "realignment.json").read_text())
    assert jax.random.key_data(key).tolist() == record["key"]["pruning"]["data"]


@pytest.mark.parametrize(
    ("method", "granularity"),
    [("wanda", "row"), ("preference_snip", "row"), ("gain", "adapter")],
)
def test_other_methods_run(files, method, granularity):
    adapters = {name: str(files / name) for name in ("base", "aligned", "finetuned", "weak")}
    settings = Settings(**adapters, calibration=str(files / "rows.jsonl"), method=method, granularity=granularity)
    record = realign_files(settings, files / method)
    assert record["identification"]["method"] == method
    assert json.loads((files / method / "realignment.json").read_text()) == record


def test_identify_writes_masks_that_realign_takes(files, realigned):
    common = [*flags(files, "base", "aligned", "weak"), "--calibration", files / "rows.jsonl"]
    run("identify", *common, "--output", files / "masks")
    assert (files / "masks" / "masks.safetensors").read_bytes() == (realigned / "masks.safetensors").read_bytes()


def test_masks_alone_have_nothing_to_gain_from(files, tmp_path):
    arguments = [*flags(files, "base", "aligned"), "--calibration", files / "rows.jsonl", "--method", "gain"]
    line = error_line(run("identify", *arguments, "--output", tmp_path / "masks", check=False))
    assert "--method gain compares with a fine-tuned adapter" in line
    assert "nlsr realign" in line


def test_product_space_raises_the_rank_and_rules_choose(files):
    realign_here(files, files / "product", space="product", rule="layers", layers=(1,))
    config = json.loads((files / "product" / "adapter_config.json").read_text())
    assert config["r"] == 8
    record = json.loads((files / "product" / "realignment.json").read_text())
    assert [m["pruned"] for m in record["modules"]] == [True] * 3 + [False] * 3


def test_real_checkpoints(shared_data, tmp_path):
    """On one device, and on eight."""
    source = shared_data / "adapters" / "llama32-1b-r8"
    arguments = ["--aligned", source / "checkpoint-1000", "--finetuned", source / "checkpoint-1064"]
    arguments += ["--method", "magnitude"]
    run("realign", *arguments, "--output", tmp_path / "one")
    run("realign", *arguments, "--output", tmp_path / "eight", env={"XLA_FLAGS": EIGHT})
    same_bytes(tmp_path / "one", tmp_path / "eight", OUTPUTS[:3])
    before = load_file(source / "checkpoint-1064" / "adapter_model.safetensors")
    after = load_file(tmp_path / "one" / "adapter_model.safetensors")
    record = json.loads((tmp_path / "one" / "realignment.json").read_text())
    assert record["summary"]["modules"] == 32
    for entry in record["modules"]:
        for factor in "AB":
            part = f"layers.{entry['layer']}.self_attn.{entry['module']}.lora_{factor}"
            (name,) = (n for n in before if part in n)
            equal = np.array_equal(before[name], after[name])
            assert equal == entry["pruned"]


WRONG_SETTINGS = {
    "--sparsity 1.5": "sparsity is 1.5",
    "--method taylor": "--method is 'taylor'",
    "--method low_rank": "--base is missing",
    "--rule threshold": "needs --tau",
    "--rule layers --layers 7": "layers [7] are not adapted",
    "--rule layers --layers x": "--layers has 'x'",
    "--amplification_space product --weak {files}/weak": "give --rank 4",
    "--masks {files}/aligned": "masks.safetensors",
    "--seed -1": "--seed is -1",
    "--beta nan": "--beta is nan",
}


def test_bad_settings_are_named_and_leave_nothing(files, tmp_path):
    common = [*flags(files, "aligned", "finetuned"), "--method", "magnitude", "--output", tmp_path / "out"]
    calls = [[*common, *change.format(files=files).split()] for change in WRONG_SETTINGS]
    for line, (change, message) in zip(attempts("realign", calls), WRONG_SETTINGS.items(), strict=True):
        assert message in line, change
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [False, True])
def test_unrelated_adapters_are_refused_by_module_unless_told_otherwise(files, realigned, tmp_path, given):
    from nlsr_jax.formats.peft import save_adapter
    from tests.adapter_files import SIZES
    from tests.oracles import random_adapter

    save_adapter(random_adapter(9, layers=2, rank=4, sizes=SIZES), tmp_path / "stranger")
    arguments = ["--aligned", files / "aligned", "--finetuned", tmp_path / "stranger"]
    arguments += ["--masks", realigned] if given else ["--method", "magnitude"]
    line = error_line(run("realign", *arguments, "--output", tmp_path / "out", check=False))
    assert "do not descend from the aligned adapter: layer 0 q_proj" in line
    assert not (tmp_path / "out").exists()
    stranger = {"finetuned": str(tmp_path / "stranger"), "masks": str(realigned) if given else None}
    realign_here(files, tmp_path / "out", allow_unrelated=True, **stranger)
    record = json.loads((tmp_path / "out" / "realignment.json").read_text())
    assert any("do not descend" in warning for warning in record["warnings"])


def test_output_that_exists_is_kept(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    arguments = [*flags(files, "aligned", "finetuned"), "--method", "magnitude", "--output", tmp_path / "out"]
    assert "output exists" in error_line(run("realign", *arguments, check=False))
    assert contents(tmp_path / "out") == {"mine": b"x"}
    line = error_line(run("realign", *arguments, "--overwrite", check=False))
    assert "replaces only what nlsr_jax has written, and this folder holds mine and no realignment.json" in line
    assert contents(tmp_path / "out") == {"mine": b"x"}
    (tmp_path / "out" / "mine").unlink()
    for _ in range(2):
        realign_files(Settings(**_two(files), method="magnitude"), tmp_path / "out", overwrite=True)
    assert "realignment.json" in contents(tmp_path / "out")


def test_record_with_changed_inputs_is_refused(files, realigned, tmp_path):
    shutil.copytree(files / "finetuned", tmp_path / "finetuned")
    path = tmp_path / "finetuned" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    arguments = ["--from_record", realigned, "--finetuned", tmp_path / "finetuned", "--output", tmp_path / "out"]
    line = error_line(run("realign", *arguments, check=False))
    assert "finetuned file adapter_model.safetensors is not the one of the record" in line


def test_long_prompts_are_reported(files, tmp_path):
    arguments = [*main_job(files), "--max_length", "8", "--output", tmp_path / "out"]
    result = run("realign", *arguments)
    record = json.loads((tmp_path / "out" / "realignment.json").read_text())
    assert record["calibration"]["skipped_long_prompt"] > 0
    assert record["calibration"]["cut_responses"] > 0
    assert f"{record['calibration']['skipped_long_prompt']} prompts longer than" in " ".join(result.stderr.split())


@pytest.mark.parametrize("spare", [0, 4_000, 20_000, 60_000, 100_000])
def test_a_full_disk_leaves_nothing_behind(files, tmp_path, spare):
    """``spare``: bytes beyond the two large files, so that each writer meets the end of the disk once."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    size = (files / "finetuned" / "adapter_model.safetensors").stat().st_size * 5 // 4 + spare
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        line = _refusal(files, disk / "out", as_command=spare == 20_000)
        assert f"{disk / 'out'}: no space left on the device" in line
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _refusal(files, output, *, as_command):
    """What a run without data says that cannot be: the command's line, or the error behind it."""
    if as_command:
        arguments = [*flags(files, "aligned", "finetuned"), "--method", "magnitude", "--output", output]
        return error_line(run("realign", *arguments, check=False))
    with pytest.raises(InputError) as caught:
        realign_here(files, output)
    return str(caught.value)


def test_help_names_the_flags():
    text = run("realign", "--helpshort", check=False).stdout
    assert "--aligned" in text
    assert "--from_record" in text
