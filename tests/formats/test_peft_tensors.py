"""The tensors decide: what a config says of another kind of model is a note, and lacking modules are no damage."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.adapter import Adapter
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import open_adapter
from nlsr_jax.formats.peft_fields import INERT, READ, REASONS, is_inert
from nlsr_jax.modules import MODULES
from tests.oracles import random_adapter

WEIGHTS = "adapter_model.safetensors"
SIZES = {
    **{"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32)},
    **{"gate_proj": (32, 48), "up_proj": (32, 48), "down_proj": (48, 32)},
}
BASE = {
    **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64},
}


def save(folder, layers=None, **changes):
    """Save an adapter of four layers, without the factors of the layers that ``layers`` leaves out of a module."""
    adapter = random_adapter(0, layers=4, rank=4, sizes=SIZES)
    nlsr_jax.save_adapter(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    kept = {
        name: value
        for name, value in load_file(folder / WEIGHTS).items()
        if int(name.split(".")[4]) in (layers or {}).get(name.split(".")[6], range(4))
    }
    save_file(kept, folder / WEIGHTS)
    return adapter


@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
def test_a_mislabelled_task_is_a_note(tmp_path, task):
    adapter = save(tmp_path / "a", task_type=task)
    file = open_adapter(tmp_path / "a")
    assert [
        note for note in file.notes if f"task_type is {task}; the file holds plain factors" in note
    ] == file.notes
    assert len(file.notes) == 1
    np.testing.assert_array_equal(file.load().factors["q_proj"]["a"], adapter.factors["q_proj"]["a"])
    nlsr_jax.save_adapter(adapter, tmp_path / "b", layout=file.layout)
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["task_type"] == task


def test_a_trained_head_is_no_mislabelled_task(tmp_path):
    save(tmp_path / "a", task_type="SEQ_CLS")
    tensors = load_file(tmp_path / "a" / WEIGHTS)
    save_file({**tensors, "base_model.model.score.weight": np.zeros((2, 32), np.float32)}, tmp_path / "a" / WEIGHTS)
    with pytest.raises(InputError, match="is a weight of a trained head"):
        nlsr_jax.load_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        *((f"{family}ForCausalLM", False) for family in ("Llama", "Gemma3", "OPT", "Phi3", "Something")),
        ("Qwen2_5_VLForConditionalGeneration", False),
        ("LlamaForSequenceClassification", True),
        (None, False),
    ],
)
def test_auto_mapping_of_any_class(tmp_path, name, noted):
    mapping = {"base_model_class": name, "parent_library": "x", "unsloth_fixed": True}
    adapter = save(tmp_path / "a", auto_mapping=mapping)
    file = open_adapter(tmp_path / "a")
    assert bool(file.notes) is noted
    np.testing.assert_array_equal(file.load().factors["q_proj"]["a"], adapter.factors["q_proj"]["a"])


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
HYBRIDS = {
    "attention in the last layer": dict.fromkeys(ATTENTION, (3,)),
    "attention in every second layer": dict.fromkeys(ATTENTION, (1, 3)),
    "keys and values shared": dict.fromkeys(("k_proj", "v_proj"), (0, 2)),
    "a plain MLP in the first layer": dict.fromkeys(("gate_proj", "up_proj", "down_proj"), (0,)),
    "no values in one layer": {"v_proj": (0, 1, 2)},
    "no layer below two": dict.fromkeys(SIZES, (2, 3)),
    "no attention at all": dict.fromkeys(ATTENTION, ()),
}


@pytest.mark.parametrize("kind", HYBRIDS)
def test_modules_that_a_layer_does_not_have_are_not_missing(tmp_path, kind):
    adapter = save(tmp_path / "a", HYBRIDS[kind])
    file = open_adapter(tmp_path / "a")
    found = file.load()
    assert file.notes
    assert all(
        "of which the file has no factors: right where the base has none there" in note for note in file.notes
    )
    layers = {m: HYBRIDS[kind].get(m, (0, 1, 2, 3)) for m in SIZES}
    assert {m: nlsr_jax.adapter.layer_indices(found, m) for m in found.factors} == {
        m: i for m, i in layers.items() if i
    }
    for module, leaf in found.factors.items():
        np.testing.assert_array_equal(leaf["b"], np.asarray(adapter.factors[module]["b"])[list(layers[module])])
    nlsr_jax.save_adapter(found, tmp_path / "b", layout=file.layout)
    nlsr_jax.save_adapter(found, tmp_path / "c")
    first, kept, new = (load_file(tmp_path / part / WEIGHTS) for part in "abc")
    assert first.keys() == kept.keys() == new.keys()
    assert not open_adapter(tmp_path / "c").notes


@pytest.mark.parametrize("kind", HYBRIDS)
def test_on_a_base_that_has_the_modules_the_file_is_incomplete(tmp_path, kind):
    save(tmp_path / "a", HYBRIDS[kind])
    config = parse_model_config(BASE, "config.json")
    with pytest.raises(InputError, match=r"no factors of layer \d \w+, which the base has and the config adapts"):
        nlsr_jax.load_adapter(tmp_path / "a", config)


def test_half_a_pair_is_incomplete_everywhere(tmp_path):
    save(tmp_path / "a", HYBRIDS["attention in the last layer"])
    tensors = load_file(tmp_path / "a" / WEIGHTS)
    tensors.pop(next(name for name in tensors if "layers.3" in name and name.endswith("o_proj.lora_B.weight")))
    save_file(tensors, tmp_path / "a" / WEIGHTS)
    with pytest.raises(InputError, match=r"has only .*; lora_B is missing"):
        nlsr_jax.load_adapter(tmp_path / "a")


def test_a_base_names_the_modules_that_it_does_not_have(tmp_path):
    sizes = {"qkv_proj": (32, 64), "o_proj": (32, 32), "mlp.fc1": (32, 48)}
    nlsr_jax.save_adapter(random_adapter(0, layers=4, rank=4, sizes=sizes), tmp_path / "a")
    with pytest.raises(InputError, match=r"the base has no module mlp\.fc1, qkv_proj in its Flax model"):
        nlsr_jax.load_adapter(tmp_path / "a", parse_model_config(BASE, "config.json"))
    assert list(nlsr_jax.load_adapter(tmp_path / "a").factors) == ["o_proj", "mlp.fc1", "qkv_proj"]


@pytest.mark.parametrize("name", ["w_proj", "mlp.up_proj", "up", "mlp..fc1", "a b.c", ""])
def test_names_that_are_no_modules(name):
    adapter = random_adapter(0, layers=1, rank=2, sizes={"q_proj": (4, 4)})
    with pytest.raises(InputError, match="unknown module"):
        nlsr_jax.adapter.check_adapter(dataclasses.replace(adapter, factors={name: adapter.factors["q_proj"]}))


def test_module_order_is_kept_and_others_follow():
    tree = dict.fromkeys(["mlp.fc1", "down_proj", "qkv_proj", "q_proj", "attn.c_proj"])
    assert nlsr_jax.adapter.module_names(tree) == ("q_proj", "down_proj", "attn.c_proj", "mlp.fc1", "qkv_proj")
    assert nlsr_jax.adapter.module_names(dict.fromkeys(sorted(MODULES))) == MODULES


def test_masks_of_other_modules_come_back(tmp_path):
    rng = np.random.default_rng(0)
    masks = {m: {f: rng.random((2, 3, 4)) < 0.5 for f in "ab"} for m in ("qkv_proj", "mlp.experts.0.up_proj")}
    nlsr_jax.save_masks(masks, tmp_path / "masks.safetensors")
    found = nlsr_jax.load_masks(tmp_path)
    assert found.keys() == masks.keys()
    np.testing.assert_array_equal(found["mlp.experts.0.up_proj"]["b"], masks["mlp.experts.0.up_proj"]["b"])


def test_every_field_of_peft_is_decided():
    from peft import LoraConfig

    assert not set(INERT) & set(REASONS)
    assert not set(READ) & {*INERT, *REASONS}
    unknown = [
        f.name for f in dataclasses.fields(LoraConfig) if not {f.name} & {*READ, *REASONS} and not is_inert(f.name)
    ]
    assert not unknown


def test_advice_is_for_the_owner_of_a_finished_adapter(tmp_path):
    base = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    for name in (*REASONS, "bias", "init_lora_weights", "task_type", "peft_type", "unheard_of"):
        save(tmp_path / name)
        config = {**base, name: "pissa" if name == "init_lora_weights" else "LOHA" if name == "peft_type" else [1]}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(InputError) as caught:
            open_adapter(tmp_path / name)
        message = str(caught.value)
        assert name in message
        assert "train plain" not in message
        assert "; " in message


def test_large_stacks_keep_their_scaling(tmp_path):
    adapter = random_adapter(0, layers=3, rank=4, sizes={"q_proj": (8, 8), "mlp.fc1": (8, 12)}, scaling=2.0)
    uneven = Adapter(adapter.factors, {"q_proj": (0.5, 1.0, 2.0), "mlp.fc1": 3.0})
    nlsr_jax.save_adapter(uneven, tmp_path / "a")
    assert nlsr_jax.load_adapter(tmp_path / "a").scaling == {"q_proj": (0.5, 1.0, 2.0), "mlp.fc1": 3.0}
