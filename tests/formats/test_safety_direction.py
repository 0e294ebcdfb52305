"""The direction of an alignment, read from two model directories."""

import dataclasses

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.adapter import delta
from nlsr_jax.errors import InputError
from nlsr_jax.models.load import save_model
from tests.oracles import random_adapter
from tests.tiny_base import save_base

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16), "down_proj": (48, 32)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A pretrained model, one that an adapter of rank 3 was merged into, and that adapter."""
    folder = tmp_path_factory.mktemp("models")
    model, params = nlsr_jax.load_model(save_base(folder / "pretrained"))
    alignment = jax.tree.map(lambda x: 0.05 * x, random_adapter(4, layers=2, rank=3, sizes=SIZES))
    layers = {module: dict(params["layers"][module]) for module in SIZES}
    for module, update in delta(alignment).items():
        layers[module]["kernel"] = params["layers"][module]["kernel"] + update
    save_model(model, {**params, "layers": {**params["layers"], **layers}}, folder / "aligned")
    return folder, alignment


def test_a_merged_adapter_comes_back(models):
    folder, alignment = models
    direction, residual = nlsr_jax.safety_direction(folder / "aligned", folder / "pretrained", rank=4)
    found = delta(direction)
    assert set(found) == set(nlsr_jax.MODULES)
    for module, update in delta(alignment).items():
        np.testing.assert_allclose(found[module], update, atol=1e-6)
        assert np.all(residual[module] < 1e-5)
    assert not np.any(found["gate_proj"])
    assert not np.any(residual["gate_proj"])


def test_a_smaller_rank_reports_its_residual(models):
    folder, alignment = models
    direction, residual = nlsr_jax.safety_direction(
        folder / "aligned", folder / "pretrained", rank=2, modules=["v_proj"]
    )
    assert set(direction.factors) == {"v_proj"}
    for i, update in enumerate(np.asarray(delta(alignment)["v_proj"], np.float64)):
        s = np.linalg.svd(update, compute_uv=False)
        np.testing.assert_allclose(residual["v_proj"][i], s[2] / np.linalg.norm(s), rtol=1e-4)


def test_ranks_are_cut_to_the_matrix(models):
    folder, _ = models
    direction = nlsr_jax.safety_direction(folder / "aligned", folder / "pretrained", rank=20, modules=["v_proj"])
    assert direction.adapter.factors["v_proj"]["b"].shape == (2, 16, 16)


def test_the_direction_of_a_lift(models):
    folder, _ = models
    fresh = random_adapter(5, layers=2, rank=2, sizes=SIZES)
    direction = nlsr_jax.safety_direction(folder / "aligned", folder / "pretrained", rank=3)
    lifted = nlsr_jax.lift(fresh, direction)
    found, expected = delta(lifted.weak), delta(direction.adapter)
    for module in SIZES:
        np.testing.assert_allclose(found[module], -expected[module], rtol=1e-5, atol=1e-7)


def test_progress_is_told(models):
    folder, _ = models
    told = []
    nlsr_jax.safety_direction(
        folder / "aligned",
        folder / "pretrained",
        rank=1,
        modules=["q_proj"],
        progress=lambda *place: told.append(place),
    )
    assert told == [("q_proj", 0), ("q_proj", 1)]


def test_what_is_refused(models, tmp_path):
    folder, _ = models
    aligned, pretrained = folder / "aligned", folder / "pretrained"
    with pytest.raises(InputError, match="rank is 0"):
        nlsr_jax.safety_direction(aligned, pretrained, rank=0)
    with pytest.raises(InputError, match="modules has 'q'"):
        nlsr_jax.safety_direction(aligned, pretrained, rank=1, modules=["q"])
    with pytest.raises(InputError, match="holds the weights of"):
        nlsr_jax.safety_direction(pretrained, pretrained, rank=1)
    other = save_base(tmp_path / "other", layers=3)
    with pytest.raises(InputError, match=r"has 3 layers of q_proj .* has 2 layers"):
        nlsr_jax.safety_direction(aligned, other, rank=1)


def test_a_direction_is_an_adapter_that_can_be_replaced(models):
    folder, _ = models
    direction = nlsr_jax.safety_direction(folder / "aligned", folder / "pretrained", rank=2)
    half = dataclasses.replace(direction.adapter, scaling=0.5)
    np.testing.assert_allclose(2 * delta(half)["q_proj"], delta(direction.adapter)["q_proj"], rtol=1e-6)
