"""The benchmark of an accelerator in small: every part runs, and its samples agree with float64."""

import pytest

from benchmarks.accelerator import Peak, attention_flops, peak, projection_flops, run, sizes
from nlsr_jax.architecture.known import known_config


@pytest.mark.long
def test_the_toy_run_agrees_with_float64():
    results = run(sizes(toy=True), Peak(1e12, 1e12), 1, "plain")
    assert list(results) == ["errors", "identification", "training", "generation", "realignment"]
    errors = results["errors"]
    assert errors["gram"] < 0.02  # inputs and products are bfloat16
    assert errors["masks"] < 0.001
    assert errors["similarity"] < 1e-5
    assert errors["transplant"] == 0
    for name in list(results)[1:]:
        assert results[name]["ours"] > 0
        assert results[name]["ratio"] == pytest.approx(results[name]["roofline"] / results[name]["ours"], rel=1e-2)
    assert results["training"]["last_loss"] < results["training"]["first_loss"]
    assert results["generation"]["repeats"]


def test_operations_are_those_of_the_shapes():
    config = known_config("llama3_8b")
    layer = 4096 * (4096 + 1024 + 1024 + 4096 + 3 * 14336)
    factors = 128 * (4096 + 4096 + 2 * (4096 + 1024) + 4096 + 4096 + 3 * (4096 + 14336))
    assert projection_flops(config, 128) == (2 * 32 * layer, 2 * 32 * factors)
    assert attention_flops(config, 255) == 32 * 4 * 4096 * 128


def test_devices_have_their_peaks():
    assert peak("NVIDIA H200", None, None) == Peak(989e12, 4.8e12)
    assert peak("NVIDIA H100 80GB HBM3", 500, None) == Peak(500e12, 3.35e12)
    with pytest.raises(ValueError, match="unknown device cpu: give its bfloat16 --tflops"):
        peak("cpu", None, 1.0)
