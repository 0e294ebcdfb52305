"""Files made to do harm: refused in one line that names them, in little time and memory."""

import json
import os
import time

import pytest

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.files.limits import Limits, from_environment
from nlsr_jax.files.safetensors_files import open_checked
from nlsr_jax.formats.hugging_face import check_weights, read_config, resolve
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.formats.weight_files import INDEX
from tests.e2e.command import ROOT, python
from tests.reliability.fuzz import LONGEST, SECONDS
from tests.reliability.fuzz_files import BASE, write_adapter, write_base
from tests.reliability.hostile import SPACE, refusal, safetensors, tensor


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """What came of every file of ``hostile``, read within a limited address space."""
    result = python("-m", "tests.reliability.hostile", tmp_path_factory.mktemp("hostile"), check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_is_huge_or_contradictory_is_refused_in_bounds(heavy):
    assert len(heavy) >= 45
    for one in heavy:
        assert one["verdict"] == "refused", one
        assert one["seconds"] < SECONDS, one
        assert one["growth"] < SPACE / 2, one


def test_small_lies_take_no_memory(heavy):
    small = [one for one in heavy if one["name"].startswith(("safetensors: ", "pickle: a ", "config: "))]
    assert len(small) >= 25
    for one in small:
        assert one["growth"] < 2**26, one


def test_a_tensor_of_two_meanings_is_refused(tmp_path):
    """Readers differ in which of two entries they take: what is checked may not be what is used."""
    entries = [json.dumps(tensor(0, 4, dtype=dtype)).encode() for dtype in ("F32", "I32")]
    (tmp_path / "x").write_bytes(safetensors(b'{"a":%b,"a":%b}' % tuple(entries), b"1234"))
    assert "holds 'a' twice" in refusal(lambda: open_checked(tmp_path / "x"))


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base", shards=True)


def shard(base):
    return sorted(base.glob("*.safetensors"))[0]


@pytest.mark.parametrize("way", ["absolute", "relative"])
def test_shards_that_are_links_out_of_the_folder(base, way):
    outside = base.parent / "elsewhere.safetensors"
    shard(base).rename(outside)
    shard_name = "model-00001-of-00002.safetensors"
    (base / shard_name).symlink_to(outside if way == "absolute" else "../elsewhere.safetensors")
    message = refusal(lambda: check_weights(base, read_config(base)))
    assert "a link out of this folder" in message
    assert str(outside) in message


def test_links_inside_the_folder_and_of_the_hubs_cache_are_followed(base, tmp_path):
    shard(base).rename(base / "kept")
    (base / "model-00001-of-00002.safetensors").symlink_to("kept")
    check_weights(base, read_config(base))
    model = tmp_path / "models--x--y"
    (model / "snapshots").mkdir(parents=True)
    (model / "blobs").mkdir()
    snapshot = base.rename(model / "snapshots" / "0123")
    (snapshot / "kept").rename(model / "blobs" / "abc")
    (snapshot / "model-00001-of-00002.safetensors").unlink()
    (snapshot / "model-00001-of-00002.safetensors").symlink_to("../../blobs/abc")
    check_weights(snapshot, read_config(snapshot))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x.safetensors", "a/../../x.safetensors", "~/x.safetensors", ""]
)
def test_an_index_that_names_what_is_not_in_the_folder(base, name):
    index = json.loads((base / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (base / INDEX).write_text(json.dumps(index))
    assert "expected a safetensors file of this folder" in refusal(lambda: check_weights(base, read_config(base)))


def test_links_that_lead_to_themselves(base):
    name = shard(base).name
    shard(base).unlink()
    (base / name).symlink_to(name)
    assert "cannot be read" in refusal(lambda: check_weights(base, read_config(base)))


def test_pipes_are_not_waited_for(base, tmp_path):
    os.mkfifo(base / "tokenizer.json")
    assert "tokenizer.json: is not a regular file" in refusal(lambda: resolve(base))
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    os.mkfifo(adapter / "adapter_model.safetensors")
    assert "not a regular file" in refusal(lambda: load_adapter(adapter))


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ' * 5000, "nests deeper than 100 levels"),
        (b'{"r": NaN}', "holds NaN"),
        (b'{"r": 1, "r": 2}', "the key 'r' twice"),
        (b'{"r": "\xff"}', "not UTF-8"),
        (b'{"r": "\\ud800"}', "half of a surrogate pair"),
        (b'{"r": ' + b"9" * 5000 + b"}", "not usable JSON"),
        (b'{"model_type": ["llama"], "peft_type": {}}', "is"),
    ],
    ids=["deep", "NaN", "twice", "bytes", "surrogate", "digits", "types"],
)
def test_configs(tmp_path, name, content, message):
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter")
    folder = base if name == "config.json" else adapter
    (folder / name).write_bytes(content)
    reads = {"config.json": lambda: nlsr_jax.load_model(base), "adapter_config.json": lambda: load_adapter(adapter)}
    found = refusal(reads[name])
    assert message in found
    assert name in found


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 10**30, -1, 0, 1e400, True, "8", [8], None])
@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_sizes_of_models(tmp_path, field, size):
    base = write_base(tmp_path / "base")
    (base / "config.json").write_text(json.dumps({**BASE, field: size}).replace("Infinity", "1e400"))
    start = time.process_time()
    refusal(lambda: nlsr_jax.load_model(base))
    assert time.process_time() - start < SECONDS


def test_names_are_shown_without_control_characters(tmp_path):
    name = "\x1b[2J\x1b]0;title\x07\r\n\u202e" + "x" * 10_000
    header = {name: tensor(0, 4)}
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(safetensors(header, b"1234"))
    assert "\\x1b[2J" in refusal(lambda: load_adapter(tmp_path / "a"))


def test_a_long_message_keeps_its_two_ends():
    message = str(InputError("begin\n" + "x" * 10**6 + "\tend"))
    assert message.startswith("begin xxx")
    assert message.endswith("xxx end")
    assert len(message) <= LONGEST


def test_limits_are_set_by_the_environment():
    assert from_environment({}) == Limits()
    found = from_environment({"NLSR_MAX_JSON_BYTES": "10", "NLSR_MAX_MATCH_SECONDS": "0.5", "OTHER": "x"})
    assert (found.json_bytes, found.match_seconds) == (10, 0.5)
    for name, value in (("RANK", "-1"), ("RANK", "0"), ("RANK", "x"), ("MATCH_SECONDS", "nan"), ("NOTHING", "1")):
        assert f"NLSR_MAX_{name}" in refusal(
            lambda name=name, value=value: from_environment({f"NLSR_MAX_{name}": value})
        )


def test_limits_are_stated():
    text = (ROOT / "SECURITY.md").read_text()
    for name, value in Limits().__dict__.items():
        line = next(line for line in text.splitlines() if f"`NLSR_MAX_{name.upper()}`" in line)
        assert f"{value:,}" in line or f"{value:g}" in line, line
