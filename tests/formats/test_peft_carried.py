"""Tensors beside the decoder's factors: named, checked against the config, and written again bit for bit."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import nlsr_jax
from nlsr_jax.adapter import concatenate
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import open_adapter, read_layout, save_adapter
from nlsr_jax.formats.peft_carried import Carried
from tests.adapter_files import SIZES
from tests.carried_files import EMBEDDING, HEAD, WRAPPER, add, array, carried_bytes, factors, save_plain

NAMES = sorted(SIZES)
PATHS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
VISION = "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"


def head_factors(**_):
    return {"tensors": factors("lm_head", 4, (32, 97)), "target_modules": [*NAMES, "lm_head"]}


def image_tower():
    """Names that the decoder has as well, of another rank, and a convolution."""
    tensors = {**factors(VISION, 2, (20, 20)), **factors("model.multi_modal_projector.linear_1", 4, (20, 32), 3)}
    patches = f"{WRAPPER}model.vision_tower.vision_model.embeddings.patch_embedding"
    tensors |= {f"{patches}.lora_A.weight": array(7, 4, 3, 2, 2), f"{patches}.lora_B.weight": array(8, 20, 4, 1, 1)}
    names = [*NAMES, "linear_1", "patch_embedding"]
    return {"tensors": tensors, "target_modules": names, "rank_pattern": {r"vision_tower\..*\.q_proj": 2}}


def all_linear():
    return {"tensors": factors("visual.blocks.0.attn.qkv", 4, (20, 60)), "target_modules": "all-linear"}


def by_expression():
    tensors = factors("model.visual.blocks.1.mlp.fc1", 4, (20, 80))
    return {"tensors": tensors, "target_modules": rf"(?:.*visual.*fc1|.*\.(?:{'|'.join(NAMES)}))"}


def projector_trained_whole():
    name = f"{WRAPPER}model.multi_modal_projector.linear_2"
    tensors = {f"{name}.weight": array(0, 32, 20), f"{name}.bias": array(1, 32)}
    return {"tensors": tensors, "modules_to_save": ["multi_modal_projector"]}


def embedding_factors():
    tensors = {f"{EMBEDDING}.lora_embedding_A": array(0, 4, 97), f"{EMBEDDING}.lora_embedding_B": array(1, 32, 4)}
    tensors[f"{EMBEDDING}.base_layer.weight"] = array(2, 97, 32).astype(np.float16)
    return {"tensors": tensors, "target_modules": [*NAMES, "embed_tokens"]}


def rows_of_an_old_version():
    name = f"{EMBEDDING}.token_adapter.trainable_tokens"
    tensors = {f"{name}_delta": array(0, 2, 32), f"{name}_original": array(1, 2, 32)}
    return {"tensors": tensors, "trainable_token_indices": {"embed_tokens": [5, 7]}}


def norm_and_biases():
    tensors = {f"{WRAPPER}model.norm.weight": array(0, 32)}
    tensors |= {f"{WRAPPER}model.layers.{i}.input_layernorm.weight": array(i, 32) for i in range(2)}
    tensors |= {f"{WRAPPER}model.layers.{i}.self_attn.q_proj.base_layer.bias": array(i, 32) for i in range(2)}
    return {"tensors": tensors, "modules_to_save": ["norm"], "bias": "all"}


KINDS = [
    head_factors, image_tower, all_linear, by_expression, projector_trained_whole, embedding_factors,
    rows_of_an_old_version, norm_and_biases,
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return save_plain(tmp_path / "theirs")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wide", [False, True])
def test_what_is_carried_comes_back_bit_for_bit(folder, tmp_path, kind, wide):
    add(folder, **kind())
    file = open_adapter(folder)
    adapter = file.load()
    changed = concatenate(adapter, adapter, (0.5, 0.5)) if wide else adapter
    save_adapter(changed, tmp_path / "ours", layout=file.layout)
    assert carried_bytes(tmp_path / "ours") == carried_bytes(folder)
    again = open_adapter(tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, again.load().factors, changed.factors)
    assert dict(again.carried.targets) == dict(file.carried.targets)
    before, after = (json.loads((f / "adapter_config.json").read_text()) for f in (folder, tmp_path / "ours"))
    for name in ("modules_to_save", "trainable_token_indices", "bias"):
        assert after.get(name) == before.get(name)
    (note,) = [note for note in file.notes if "beside the factors" in note]
    assert "carried unchanged, neither compared nor repaired" in note
    assert f"({len(file.carried.tensors)} tensor" in note


def test_every_module_is_named_once_in_the_note(folder):
    kind = image_tower()
    more = [factors(f"model.vision_tower.layers.{i}.fc1", 4, (20, 20)) for i in range(30)]
    tensors = {name: value for part in [kind["tensors"], *more] for name, value in part.items()}
    add(folder, **{**kind, "tensors": tensors, "target_modules": [*kind["target_modules"], "fc1"]})
    (note,) = open_adapter(folder).notes
    assert "30 × model.vision_tower.layers.*.fc1 (factors)" in note
    assert "66 tensors" in note
    assert len(note) < 800


def nested(name):
    return name.replace(WRAPPER, WRAPPER * 2)


def unwrapped(name):
    return name.removeprefix(WRAPPER)


def named(name):
    return re.sub(r"(lora_(?:embedding_)?[AB])", r"\1.default", name)


@pytest.mark.parametrize("rename", [nested, unwrapped, named])
@pytest.mark.parametrize("kind", [head_factors, embedding_factors])
def test_odd_names_are_written_as_peft_looks_for_them(folder, tmp_path, rename, kind):
    expected = carried_bytes(add(folder, **kind()))
    add(folder, rename=rename)
    assert carried_bytes(folder) != expected
    save_adapter(nlsr_jax.load_adapter(folder), tmp_path / "ours", layout=read_layout(folder))
    assert carried_bytes(tmp_path / "ours") == expected


def test_a_nested_model_may_name_its_modules_by_nested_paths(folder, tmp_path):
    kind = head_factors()
    paths = [f"{WRAPPER}model.layers.{i}.{name}" for i in range(2) for name in PATHS]
    add(folder, kind["tensors"], nested, target_modules=[*paths, f"{WRAPPER}lm_head"], r=4)
    file = open_adapter(folder)
    assert dict(file.carried.targets) == {"lm_head": (4, 2.0)}
    save_adapter(file.load(), tmp_path / "ours", layout=file.layout)
    written = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert "lm_head" in written["target_modules"]
    assert not [name for name in written["target_modules"] if name.startswith(WRAPPER)]
    assert dict(open_adapter(tmp_path / "ours").carried.targets) == {"lm_head": (4, 2.0)}


def test_matrices_are_copied_a_block_at_a_time(folder, tmp_path, monkeypatch):
    add(folder, **embedding_factors())
    file = open_adapter(folder)

    def whole(*_):
        raise AssertionError("a carried matrix is read whole")

    monkeypatch.setattr(Carried, "read", whole)
    monkeypatch.setattr("nlsr_jax.files.safetensors_files._BLOCK", 1000)
    save_adapter(file.load(), tmp_path / "ours", layout=file.layout)
    assert carried_bytes(tmp_path / "ours") == carried_bytes(folder)


def test_a_source_that_is_cut_meanwhile_leaves_nothing_behind(folder, tmp_path):
    add(folder, **head_factors())
    file = open_adapter(folder)
    adapter, weights = file.load(), folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: 8 + int.from_bytes(content[:8], "little") + 100])
    with pytest.raises(InputError, match="it is truncated"):
        save_adapter(adapter, tmp_path / "ours", layout=file.layout)
    assert not (tmp_path / "ours").exists()


def test_loading_the_factors_alone_says_so(folder, caplog):
    add(folder, **head_factors())
    nlsr_jax.load_adapter(folder)
    assert "lm_head (factors)" in caplog.text
    assert "the factors alone are loaded; see load_carried and apply_carried" in caplog.text
    assert nlsr_jax.load_carried(folder)
    assert not nlsr_jax.load_carried(save_plain(folder.parent / "plain"))


def only(name, value, **config):
    return {"tensors": {name: value}, **config}


HEAD_A = f"{HEAD}.lora_A.weight"
REFUSED = {
    "not adapted": ({"tensors": factors("lm_head", 4, (32, 97))}, "lm_head, which the config does not adapt"),
    "adapted, not there": ({"target_modules": [*NAMES, "lm_head"]}, "target_modules adapts lm_head"),
    "one factor": (only(HEAD_A, array(0, 4, 32), target_modules=[*NAMES, "lm_head"]), "only one of its two"),
    "rank": ({**head_factors(), "rank_pattern": {"lm_head": 2}}, "lm_head has rank 4, the config says 2"),
    "shapes": (
        {**head_factors(), "tensors": {**factors("lm_head", 4, (32, 97)), HEAD_A: array(0, 3, 32)}},
        "with one r",
    ),
    "both": ({**head_factors(), "modules_to_save": ["lm_head"]}, "PEFT cannot load it as both"),
    "saved, not there": (
        {"modules_to_save": ["embed_tokens"]},
        "modules_to_save names model.embed_tokens, of which",
    ),
    "rows, not there": ({"trainable_token_indices": [3]}, "names tokens, the file holds no rows of them"),
    "rows, not named": (
        only(f"{EMBEDDING}.token_adapter.trainable_tokens_delta", array(0, 2, 32)),
        "which trainable_token_indices does not name",
    ),
    "rows, too many": (
        only(f"{EMBEDDING}.token_adapter.trainable_tokens_delta", array(0, 3, 32), trainable_token_indices=[5, 7]),
        "names 2 tokens of model.embed_tokens",
    ),
    "not loaded": (only(f"{HEAD}.base_layer.weight", array(0, 97, 32)), "PEFT would not load"),
    "of an adapted module": (
        only(f"{WRAPPER}model.layers.0.self_attn.q_proj.weight", array(0, 32, 32)),
        "q_proj is adapted",
    ),
    "a magnitude": (only(f"{HEAD}.lora_magnitude_vector", array(0, 97)), "a DoRA magnitude"),
    "a bias of a factor": (only(f"{HEAD}.lora_B.bias", array(0, 97)), "a bias of a factor"),
    "another kind": (only(f"{HEAD}.lora_E", array(0, 4, 1)), "is unknown"),
    "a head": (only(f"{WRAPPER}score.weight", array(0, 2, 32), modules_to_save=["score"]), "a trained head"),
    "two adapters": (
        {"tensors": {name.replace("_A.", "_A.one."): v for name, v in factors("lm_head", 4, (32, 97)).items()}},
        "several adapters or models (None, one)",
    ),
    "twice": (
        {
            "tensors": {HEAD + ".weight": array(0, 97, 32), nested(HEAD) + ".weight": array(0, 97, 32)},
            "modules_to_save": ["lm_head"],
        },
        "the same tensor of two adapters",
    ),
    "characters": (only(f"{HEAD}.\x1b[2J.weight", array(0, 1)), "is unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_would_not_load_is_refused(folder, case):
    change, message = REFUSED[case]
    add(folder, **change)
    with pytest.raises(InputError) as caught:
        open_adapter(folder)
    assert message in str(caught.value)
    assert not set("\n\x1b") & set(str(caught.value))


def test_a_file_of_plain_factors_is_written_as_before(folder, tmp_path):
    file = open_adapter(folder)
    assert (bool(file.carried), file.layout.carried, file.notes) == (False, None, [])
    save_adapter(file.load(), tmp_path / "ours", layout=file.layout)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (folder / name).read_bytes()
    assert load_file(tmp_path / "ours" / "adapter_model.safetensors")
