"""Modules that no Flax model has: realigned where no forward pass is needed, else refused with the reason."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.checkpoint import restore_checkpoint
from nlsr_jax.pipeline import Settings, Stages, identify_files, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.oracles import mixed, random_adapter

FAMILIES = {
    "phi3": {"qkv_proj": (32, 64), "o_proj": (32, 32), "gate_up_proj": (32, 96), "down_proj": (48, 32)},
    "experts": {"q_proj": (32, 32), "mlp.experts.0.up_proj": (32, 48), "mlp.experts.1.up_proj": (32, 48)},
    "two of one name": {"attn.c_proj": (32, 32), "mlp.c_proj": (96, 32)},
    "none that is known": {"fc1": (32, 48), "linear_attn.in_proj_qkv": (32, 96)},
}


def save_pair(folder, sizes):
    aligned = random_adapter(0, layers=3, rank=4, sizes=sizes)
    nlsr_jax.save_adapter(aligned, folder / "aligned")
    nlsr_jax.save_adapter(
        mixed(aligned, random_adapter(1, layers=3, rank=4, sizes=sizes), 0.2), folder / "finetuned"
    )
    return {name: str(folder / name) for name in ("aligned", "finetuned")}


@pytest.mark.parametrize(("family", "method"), [*zip(FAMILIES, ["magnitude", "random"] * 2, strict=True)])
def test_realigned_without_a_forward_pass(tmp_path, family, method):
    paths = save_pair(tmp_path, FAMILIES[family])
    settings = Settings(**paths, method=method, rule="least_similar", share=0.5, seed=3)
    record = realign_files(settings, tmp_path / "out", stages=Stages(False))
    assert {entry["module"] for entry in record["modules"]} == set(FAMILIES[family])
    assert record["summary"]["repaired"] == round(record["summary"]["modules"] / 2)
    assert not verify(tmp_path / "out", recompute=True).changed
    masks, _ = restore_checkpoint(tmp_path / "out" / "checkpoint")
    reference, finetuned, found = (nlsr_jax.load_adapter(p) for p in (*paths.values(), tmp_path / "out"))
    pruned = {(entry["module"], entry["layer"]): entry["pruned"] for entry in record["modules"]}
    for module in FAMILIES[family]:
        for f in "ab":
            for i in range(3):
                mask = masks[module][f][i] & (not pruned[module, i])
                expected = np.where(mask, reference.factors[module][f][i], finetuned.factors[module][f][i])
                amplified = np.where(mask, 1.9 * reference.factors[module][f][i], expected)
                np.testing.assert_allclose(found.factors[module][f][i], amplified, rtol=1e-6)
    assert all(name in (tmp_path / "out" / "report.html").read_text() for name in FAMILIES[family])


def test_given_masks_and_products(tmp_path):
    paths = save_pair(tmp_path, FAMILIES["phi3"])
    identify_files(Settings(aligned=paths["aligned"], method="magnitude"), tmp_path / "masks", stages=Stages(False))
    settings = Settings(**paths, masks=str(tmp_path / "masks"), rule="all", space="product")
    realign_files(settings, tmp_path / "out", stages=Stages(False))
    assert nlsr_jax.load_adapter(tmp_path / "out").factors["qkv_proj"]["a"].shape == (3, 8, 32)
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight" in names


def test_random_masks_of_a_module_do_not_depend_on_the_others(tmp_path):
    few = save_pair(tmp_path / "few", {"qkv_proj": (32, 64)})
    many = save_pair(tmp_path / "many", FAMILIES["phi3"])
    found = []
    for i, paths in enumerate((few, many)):
        settings = Settings(aligned=paths["aligned"], method="random", seed=5)
        identify_files(settings, tmp_path / f"masks{i}", stages=Stages(False))
        found.append(nlsr_jax.load_masks(tmp_path / f"masks{i}")["qkv_proj"])
    np.testing.assert_array_equal(found[0]["a"], found[1]["a"])
    np.testing.assert_array_equal(found[0]["b"], found[1]["b"])


@pytest.mark.parametrize("method", ["low_rank", "wanda", "snip", "gain"])
def test_refused_where_a_forward_pass_is_needed(tmp_path, method):
    paths = save_pair(tmp_path, FAMILIES["none that is known"])
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "qwen3_5"}))
    settings = Settings(**paths, base=str(tmp_path / "base"), calibration=str(tmp_path / "rows"), method=method)
    with pytest.raises(InputError) as caught:
        realign_files(settings, tmp_path / "out", stages=Stages(False))
    message = "the base has no module fc1, linear_attn.in_proj_qkv in its Flax model"
    assert message in str(caught.value)
    assert "give --masks, --method random, or, beside --aligned, --method magnitude" in caught.value.with_flags()


def test_a_file_that_a_base_makes_incomplete_is_refused_before_calibration(tmp_path):
    paths = save_pair(tmp_path, {"q_proj": (32, 32), "v_proj": (32, 16)})
    from safetensors.numpy import save_file

    for path in paths.values():
        file = f"{path}/adapter_model.safetensors"
        save_file(
            {name: value for name, value in load_file(file).items() if "layers.1.self_attn.v" not in name}, file
        )
    (tmp_path / "base").mkdir()
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    settings = Settings(**paths, base=str(tmp_path / "base"), calibration=str(tmp_path / "rows"))
    with pytest.raises(InputError, match="no factors of layer 1 v_proj, which the base has and the config adapts"):
        realign_files(settings, tmp_path / "out", stages=Stages(False))
    record = realign_files(Settings(**paths, method="magnitude"), tmp_path / "out", stages=Stages(False))
    notes = [
        warning for warning in record["warnings"] if "the config names v_proj of layers 1, of which" in warning
    ]
    assert len(notes) == 2
    identified = identify_files(
        Settings(aligned=paths["aligned"], method="magnitude"), tmp_path / "masks", stages=Stages(False)
    )
    assert len(identified["warnings"]) == 1
