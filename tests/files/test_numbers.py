"""What is not finite is found in every type and written by no writer."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import count_not_finite, describe_range, find_not_finite
from nlsr_jax.files.safetensors_files import SafetensorsWriter, write_checked
from nlsr_jax.formats import record as records
from nlsr_jax.models.load import save_model
from nlsr_jax.study.storytelling import write_table
from tests.oracles import random_adapter

FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


@pytest.mark.parametrize("dtype", FLOATS)
def test_entries_that_are_not_finite_are_counted(dtype):
    values = np.zeros((3, 5), dtype)
    assert count_not_finite(values) == 0
    values[0, 1], values[1, 2], values[2, 4] = np.nan, np.inf, -np.inf
    assert count_not_finite(values) == 3
    assert count_not_finite(values.T) == 3
    assert count_not_finite(values[:, :1]) == 0
    largest = np.full(4, ml_dtypes.finfo(dtype).max, dtype)
    assert count_not_finite(largest) == count_not_finite(-largest) == 0


def test_types_are_named_with_their_largest_number():
    assert describe_range(np.float16) == "float16, whose largest number is 65504"
    assert describe_range(jnp.bfloat16) == "bfloat16, whose largest number is 3.38953e+38"


@pytest.mark.parametrize(("dtype", "largest"), [("float16", "65504"), ("bfloat16", "3.38953e"), ("float32", "3.4")])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_no_adapter_that_is_not_finite_is_saved(tmp_path, dtype, largest, bad):
    adapter = jax.tree.map(lambda x: np.array(jnp.asarray(x, dtype)), random_adapter(0))
    adapter.factors["v_proj"]["b"][1, 2, 3] = bad
    with pytest.raises(InputError, match=f"layer 1 v_proj.b holds 1 entries .* in {dtype}, whose .*{largest}"):
        nlsr_jax.save_adapter(adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_in_a_conversion_is_refused_where_it_is_saved(tmp_path):
    reference = nlsr_jax.amplify(random_adapter(0), beta=1e6)
    with np.errstate(over="ignore"):
        half = jax.tree.map(lambda x: np.asarray(x).astype(np.float16), reference)
    with pytest.raises(InputError, match=r"layer 0 down_proj.a holds .* float16, whose largest number is 65504"):
        nlsr_jax.save_adapter(half, tmp_path / "out")


def test_an_adapter_that_is_there_stays_where_another_is_refused(tmp_path):
    good = random_adapter(0)
    nlsr_jax.save_adapter(good, tmp_path / "out")
    bad = jax.tree.map(np.copy, good)
    bad.factors["q_proj"]["a"][:] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        nlsr_jax.save_adapter(bad, tmp_path / "out", overwrite=True)
    jax.tree.map(np.testing.assert_array_equal, nlsr_jax.load_adapter(tmp_path / "out").factors, good.factors)


def test_no_tensor_that_is_not_finite_is_written(tmp_path):
    tensors = {"fine": np.zeros(2, np.int32), "model.norm.weight": np.array([1, np.inf], np.float32)}
    with pytest.raises(InputError, match=r"tensor model.norm.weight holds 1 entries that are NaN or infinite"):
        write_checked(tensors, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
    described = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    with (
        SafetensorsWriter(tmp_path / "y", described) as writer,
        pytest.raises(InputError, match=r"model.norm.weight"),
    ):
        writer.write("model.norm.weight", tensors["model.norm.weight"])


def test_masks_are_bool(tmp_path):
    masks = {"q_proj": {"a": np.array([[[np.nan]]], np.float32), "b": np.ones((1, 1, 1), bool)}}
    with pytest.raises(InputError, match=r"masks: q_proj.a is float32; expected bool"):
        nlsr_jax.save_masks(masks, tmp_path / "masks.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_places_in_json_values_are_named(bad, tmp_path):
    record = {"settings": {"beta": 0.9}, "modules": [{"similarity": 0.5}, {"similarity": bad}]}
    assert find_not_finite(record) == f"modules[1].similarity is {bad}"
    with pytest.raises(InputError, match=rf"record: modules\[1\].similarity is {bad}; expected a finite number"):
        records.dump(record)
    with pytest.raises(InputError, match=r"table.json: rows\[0\].hs is"):
        write_table([{"hs": bad}], tmp_path / "table.json")
    record["modules"][1]["similarity"] = 1
    assert json.loads(records.dump(record)) == record


def test_a_base_beyond_float16_is_refused_in_it(tmp_path):
    model, params = nlsr_jax.load_model(SHIPPED / "base")
    scale = np.array(params["norm"]["scale"])
    scale[3] = 1e5
    params = {**params, "norm": {**params["norm"], "scale": scale}}
    save_model(model, params, tmp_path / "base")
    with pytest.raises(InputError, match=r"base: norm.scale has entries .* float16, whose largest number is 65504"):
        nlsr_jax.load_model(tmp_path / "base", dtype=jnp.float16)
    nlsr_jax.load_model(tmp_path / "base", dtype=jnp.bfloat16)
