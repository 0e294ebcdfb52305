"""Adapters of MLX-LM: read as PEFT would hold them, or refused with what their owner can do."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import open_adapter
from nlsr_jax.pipeline import Settings, Stages, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.oracles import mixed, random_adapter

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16), "down_proj": (48, 32)}
PARAMETERS = {"rank": 4, "scale": 20.0, "dropout": 0.0}


def save_mlx(folder, adapter=None, *, prefix="model.layers", first=0, dtype=np.float32, **changes):
    """Save an adapter as MLX-LM does: transposed factors, the scale in the config."""
    adapter = adapter or random_adapter(0, layers=2, rank=4, sizes=SIZES)
    parents = {"q_proj": "self_attn", "v_proj": "self_attn", "down_proj": "mlp"}
    tensors = {
        f"{prefix}.{first + i}.{parents[module]}.{module}.lora_{f}": np.ascontiguousarray(layer.T).astype(dtype)
        for module, leaf in adapter.factors.items()
        for f, stack in leaf.items()
        for i, layer in enumerate(np.asarray(stack))
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "lora_parameters": PARAMETERS, "model": "some/base-4bit", "num_layers": 16}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "iters": 50, "train": True, **changes}))
    return adapter


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_factors_are_transposed_and_the_scale_is_kept(tmp_path, dtype):
    expected = save_mlx(tmp_path / "mlx", dtype=dtype)
    file = open_adapter(tmp_path / "mlx")
    assert file.notes == [
        f"{tmp_path / 'mlx'}: written by MLX-LM; read with transposed factors and scale 20, and written as a PEFT "
        "adapter"
    ]
    nlsr_jax.save_adapter(file.load(), tmp_path / "peft", layout=file.layout)
    again = open_adapter(tmp_path / "peft")
    assert not again.notes
    assert again.layout.config["base_model_name_or_path"] == "some/base-4bit"
    for found in (file.load(), again.load()):
        assert found.scaling == 20.0
        assert found.layers is None
        for module, leaf in expected.factors.items():
            for f, value in leaf.items():
                assert found.factors[module][f].dtype == dtype
                np.testing.assert_array_equal(found.factors[module][f], np.asarray(value).astype(dtype))
    rows = file.factors("q_proj", slice(1, 2))
    np.testing.assert_array_equal(rows["b"], file.load().factors["q_proj"]["b"][1:])


def test_the_update_is_that_of_the_layer(tmp_path):
    adapter = save_mlx(tmp_path / "mlx")
    update = np.asarray(nlsr_jax.adapter.delta(nlsr_jax.load_adapter(tmp_path / "mlx"))["down_proj"][1])
    a, b = (np.asarray(adapter.factors["down_proj"][f][1]).T for f in ("a", "b"))
    x = np.random.default_rng(0).normal(size=(5, 48)).astype(np.float32)
    np.testing.assert_allclose(x @ update.T, 20 * (x @ a) @ b, rtol=1e-4, atol=1e-4)  # sums of 48 in float32


def test_the_last_layers_of_a_base_and_other_places(tmp_path):
    save_mlx(tmp_path / "last", first=6)
    assert nlsr_jax.load_adapter(tmp_path / "last").layers == dict.fromkeys(SIZES, (6, 7))
    save_mlx(tmp_path / "vision", prefix="language_model.model.layers")
    file = open_adapter(tmp_path / "vision")
    assert file.layout.prefix == "base_model.model.language_model.model."
    nlsr_jax.save_adapter(file.load(), tmp_path / "peft", layout=file.layout)
    assert open_adapter(tmp_path / "peft").layout.prefix == file.layout.prefix


def test_alpha_beside_an_equal_rank_changes_nothing(tmp_path):
    save_mlx(tmp_path / "old", lora_parameters={**PARAMETERS, "alpha": 4})
    assert nlsr_jax.load_adapter(tmp_path / "old").scaling == 20.0


def rename(folder, old, new):
    (folder / old).rename(folder / new)


def add(folder, name, shape):
    from safetensors.numpy import load_file

    path = folder / "adapters.safetensors"
    save_file({**load_file(path), name: np.zeros(shape, np.float32)}, path)


@pytest.mark.parametrize(
    ("changes", "break_it", "message"),
    [
        ({"fine_tune_type": "dora"}, None, "fine_tune_type is 'dora': DoRA rescales the base weights"),
        (
            {"fine_tune_type": "full"},
            None,
            "all weights were trained, so there are no factors; fuse it with mlx_lm.fuse",
        ),
        ({"fine_tune_type": None}, None, "fine_tune_type is 'None': expected 'lora'"),
        ({"lora_parameters": None}, None, "expected rank and scale, as MLX-LM writes it"),
        ({"lora_parameters": {"rank": 8, "scale": 20.0}}, None, "has rank 8, q_proj has factors of rank 4"),
        ({"lora_parameters": {"rank": True, "scale": 1}}, None, "lora_parameters.rank is True"),
        ({"lora_parameters": {"rank": 4, "scale": 0}}, None, "lora_parameters.scale is 0"),
        ({"lora_parameters": {"rank": 4, "scale": 10**400}}, None, "expected a finite number other than 0"),
        ({"lora_parameters": {**PARAMETERS, "alpha": 16}}, None, "alpha 16 beside scale 20.0"),
        ({}, lambda f: add(f, "model.layers.0.self_attn.q_proj.m", (32,)), "is a DoRA magnitude"),
        ({}, lambda f: add(f, "model.norm.weight", (32,)), "a weight that was trained whole"),
        (
            {},
            lambda f: add(f, "model.layers.0.mlp.switch_mlp.up_proj.lora_a", (2, 4, 32)),
            "one factor for all experts",
        ),
        ({}, lambda f: add(f, "model.layers.1.self_attn.o_proj.lora_a", (32, 4)), "; lora_B is missing"),
        (
            {},
            lambda f: rename(f, "adapters.safetensors", "0000100_adapters.safetensors"),
            "copy its last checkpoint, 0000100_adapters.safetensors, to adapters.safetensors",
        ),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path, changes, break_it, message):
    save_mlx(tmp_path / "mlx", **changes)
    if break_it:
        break_it(tmp_path / "mlx")
    with pytest.raises(InputError) as caught:
        nlsr_jax.load_adapter(tmp_path / "mlx")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_realignment_of_adapters_of_mlx(tmp_path):
    aligned = save_mlx(tmp_path / "aligned")
    save_mlx(tmp_path / "finetuned", mixed(aligned, random_adapter(1, layers=2, rank=4, sizes=SIZES), 0.2))
    paths = {name: str(tmp_path / name) for name in ("aligned", "finetuned")}
    record = realign_files(
        Settings(**paths, method="magnitude", rule="all"), tmp_path / "out", stages=Stages(False)
    )
    assert sum("written by MLX-LM" in warning for warning in record["warnings"]) == 2
    assert "adapters.safetensors" in record["inputs"]["finetuned"]["files"]
    assert nlsr_jax.load_adapter(tmp_path / "out").scaling == 20.0
    assert not verify(tmp_path / "out", recompute=True).changed
