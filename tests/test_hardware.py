"""The platform decides which way is taken, in one file alone, and every way gives the same result."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import nlsr_jax
from nlsr_jax import hardware
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.similarity import masked_cosine, similarity
from nlsr_jax.nlsr.statistics import statistics_from_activations
from tests.oracles import activations, mixed, random_adapter

ROOT = pathlib.Path(nlsr_jax.__file__).parent
# Large enough that the CPU multiplies by pieces, branches at run time and factorises layer by layer.
REFERENCE = random_adapter(0, layers=2, rank=64, sizes={"q_proj": (80, 2050)})
FINETUNED = mixed(REFERENCE, random_adapter(1, layers=2, rank=64, sizes={"q_proj": (80, 2050)}), 0.5)
INPUTS = activations(2, REFERENCE, 4200)


@pytest.fixture(params=["tpu", "gpu"])
def accelerator(request, monkeypatch):
    """The ways of an accelerator, on whatever this machine is."""
    jax.clear_caches()
    monkeypatch.setattr(hardware, "platform", lambda: request.param)
    yield request.param
    jax.clear_caches()


def run():
    statistics = statistics_from_activations(REFERENCE, INPUTS)
    masks = identify(REFERENCE, statistics, sparsity=0.7)
    return statistics, masks, similarity(REFERENCE, FINETUNED, masks)


EXPECTED = run()


def test_an_accelerators_ways_give_the_same_statistics_masks_and_similarities(accelerator):
    assert not hardware.factorises_one_by_one()
    assert not hardware.branches(64)
    assert hardware.piece(2050) == 2050
    assert not hardware.selects_on_host({"x": jnp.zeros(3)})
    (expected, masks, values), (found, other_masks, others) = EXPECTED, run()
    assert_allclose(found.gram["q_proj"], expected.gram["q_proj"], rtol=1e-6)
    # A corrected root and a plain one, both of a well-conditioned matrix.
    assert_allclose(
        found.root["q_proj"], expected.root["q_proj"], atol=3e-5 * np.abs(expected.root["q_proj"]).max()
    )
    for one, other in zip(jax.tree.leaves(masks), jax.tree.leaves(other_masks), strict=True):
        assert np.count_nonzero(one) == np.count_nonzero(other)
        assert np.mean(np.asarray(one) != np.asarray(other)) < 1e-3  # rounding at the threshold
    assert_allclose(others["q_proj"], values["q_proj"], atol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks for the ways of the CPU")
def test_the_cpus_ways():
    assert hardware.platform() == "cpu"
    assert hardware.factorises_one_by_one()
    assert (hardware.branches(63), hardware.branches(64)) == (False, True)
    assert [hardware.piece(size) for size in (1, 1024, 2047, 2048, 5000)] == [1, 1024, 2047, 1024, 1024]
    assert hardware.attention_kernel() is None
    assert hardware.selects_on_host({"x": jnp.zeros(3), "y": np.zeros(2), "z": None})


def test_every_platform_with_a_fused_kernel_has_one_that_is_known(accelerator):
    assert hardware.attention_kernel() == {"tpu": "splash", "gpu": "cudnn"}[accelerator]


def test_tracers_are_left_to_the_compiler():
    seen = []
    jax.jit(lambda x: seen.append(hardware.selects_on_host({"x": x})) or x)(jnp.zeros(3))
    assert seen == [False]


def test_the_questions_compile_nothing_anew():
    masks = identify(REFERENCE, method="magnitude", sparsity=0.6)
    found = similarity(REFERENCE, FINETUNED, masks)
    before = masked_cosine._cache_size()
    assert before > 0
    assert_array_equal(similarity(REFERENCE, FINETUNED, masks)["q_proj"], found["q_proj"])
    assert masked_cosine._cache_size() == before


def test_no_other_file_asks_for_the_platform():
    asks = re.compile(r"default_backend|(?<!sys)\.platform\s*(==|in\b)")
    files = [path for path in ROOT.rglob("*.py") if asks.search(path.read_text(encoding="utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in files] == ["hardware.py"]
