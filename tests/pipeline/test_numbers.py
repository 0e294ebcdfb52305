"""Numbers that a type cannot hold: refused before anything is published, with module, β and type."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from tests.adapter_files import save_inputs
from tests.lineages import start, trained

SIZES = {"q_proj": (16, 16), "v_proj": (16, 8)}


@pytest.fixture(scope="module")
def adapters():
    aligned = trained(1, start(0, sizes=SIZES, layers=2), 10.0)
    return aligned, trained(2, aligned, 5.0)


def run(adapters, folder, types, scale=1.0, **changes):
    """Realign the two adapters in the given types, the factors of the aligned one scaled."""
    for name, adapter, dtype in zip(("aligned", "finetuned"), adapters, types, strict=True):
        size = scale if name == "aligned" else 1.0
        saved = jax.tree.map(lambda x, size=size, dtype=dtype: np.asarray(jnp.asarray(size * x, dtype)), adapter)
        save_adapter(saved, folder / name)
    paths = {name: str(folder / name) for name in ("aligned", "finetuned")}
    return realign_files(Settings(**{"method": "magnitude", "rule": "all", **paths, **changes}), folder / "out")


@pytest.mark.parametrize("space", ["factors", "product"])
def test_an_overflow_of_the_output_names_module_beta_and_type(adapters, tmp_path, space):
    with pytest.raises(InputError) as error:
        run(adapters, tmp_path, ("float32", "float16"), beta=1e6, space=space)
    message = str(error.value)
    assert "adapter: layer 0 q_proj." in message
    assert "float16, whose largest number is 65504" in message
    assert "beta 1e+06" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dtype", "beta", "largest", "amplification_space"),
    [
        ("float16", 1e6, "65504", "product"),
        ("bfloat16", 3e38, "3.38953e+38", "factors"),
        ("float32", 3e38, "", "factors"),
    ],
)
def test_an_overflow_of_the_reference_names_module_beta_and_type(
    adapters, tmp_path, dtype, beta, largest, amplification_space
):
    with pytest.raises(InputError) as error:
        run(adapters, tmp_path, (dtype, dtype), 50.0, beta=beta, amplification_space=amplification_space)
    message = str(error.value)
    assert "the reference's layer 0 q_proj." in message
    assert f"{dtype}, whose largest number is {largest}" in message
    assert f"beta {beta:g}" in message
    assert not (tmp_path / "out").exists()


def test_a_similarity_that_is_no_number_says_why(adapters, tmp_path):
    run(adapters, tmp_path, ("float16", "float16"))
    paths = {name: str(tmp_path / name) for name in ("aligned", "finetuned")}
    given = Settings(**paths, masks=str(tmp_path / "out"), beta=1e6, rule="all")
    with pytest.raises(InputError) as error:
        realign_files(given, tmp_path / "other")
    message = str(error.value)
    assert "layer 0 q_proj: the similarity is no number: with beta 1e+06" in message
    assert "float16, whose largest number is 65504" in message
    assert not (tmp_path / "other").exists()


def test_a_factor_that_underflows_is_refused(adapters, tmp_path):
    tiny = dataclasses.replace(adapters[0], factors={m: dict(leaf) for m, leaf in adapters[0].factors.items()})
    tiny.factors["v_proj"]["b"] = 1e-9 * tiny.factors["v_proj"]["b"]
    finetuned = jax.tree.map(np.copy, adapters[1])
    finetuned.factors["v_proj"]["b"] = 1e-7 * finetuned.factors["v_proj"]["b"]
    finetuned.factors["v_proj"]["b"][:, 0, 0] = 1e-3
    changes = {"sparsity": 1e-3, "allow_unrelated": True, "beta": 0.0}
    with pytest.raises(InputError, match=r"layer 0 v_proj.b would be zero throughout: .* below what float16 holds"):
        run((tiny, finetuned), tmp_path, ("float32", "float16"), **changes)
    assert not (tmp_path / "out").exists()


def test_entries_that_underflow_are_noted(adapters, tmp_path):
    some = jax.tree.map(np.copy, adapters[0])
    some.factors["q_proj"]["a"][0, 0, :3] = 1e-12
    record = run((some, adapters[1]), tmp_path, ("float32", "float16"), sparsity=1e-4, beta=0.0)
    assert any(
        warning == "3 entries of the reference are too small for float16 and are 0 in the output"
        for warning in record["warnings"]
    )
    assert "too small for float16" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("types", [("float32", "bfloat16"), ("float16", "float32")])
def test_types_that_hold_everything_are_written_without_a_word(adapters, tmp_path, types):
    assert run(adapters, tmp_path, types)["warnings"] == []
    found = load_adapter(tmp_path / "out").factors["q_proj"]["a"]
    assert found.dtype == jnp.dtype(types[1])


def test_a_calibration_pass_that_is_not_finite_is_refused(tmp_path):
    """With adapters of one type and a huge β activations overflow, not the factors."""
    folder = save_inputs(tmp_path)
    paths = {name: str(folder / name) for name in ("base", "aligned", "finetuned")}
    given = Settings(**paths, calibration=str(folder / "rows.jsonl"), beta=1e30)
    for output in ("realign", "identify"):
        with pytest.raises(InputError, match=r"calibration pass gives NaN or infinite .* beta 1e\+30 is too large"):
            (realign_files if output == "realign" else identify_files)(given, folder / output)
        assert not (folder / output).exists()
