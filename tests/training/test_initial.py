"""New adapters start as PEFT's, new models as they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import MODULES, check_adapter, delta
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama
from nlsr_jax.training.initial import new_adapter, new_params
from nlsr_jax.training.settings import LoraSettings
from tests.training.tiny import CONFIG

KEY = jax.random.key(5)


def test_a_new_adapter_changes_nothing():
    adapter = new_adapter(KEY, CONFIG, LoraSettings(rank=3, alpha=12))
    check_adapter_fits(adapter, CONFIG)
    assert set(adapter.factors) == set(MODULES)
    assert adapter.scaling == 4
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(adapter))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(delta(adapter)))


def test_factors_are_spread_as_pefts():
    adapter = new_adapter(KEY, CONFIG, LoraSettings(rank=64))
    for module, (k, _) in CONFIG.projections().items():
        a, b = np.asarray(adapter.factors[module]["a"]), np.asarray(adapter.factors[module]["b"])
        assert not b.any()
        assert np.abs(a).max() <= k**-0.5
        assert np.abs(a).max() > 0.99 * k**-0.5
        # Uniform: deviation 1/√(3k); of 4096 numbers and more it is known to one part in a hundred.
        assert a.std() == pytest.approx((3 * k) ** -0.5, rel=0.03)
        assert abs(a.mean()) < 4 * a.std() / a.size**0.5
        assert a.min() < -0.99 * k**-0.5


def test_pefts_own_start_has_the_same_bound():
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(48, 32)), peft.LoraConfig(r=64, target_modules=["0"])
    )
    factors = {name: leaf.detach().numpy() for name, leaf in model.named_parameters() if "lora" in name}
    a, b = (next(leaf for name, leaf in factors.items() if f"lora_{x}" in name) for x in "AB")
    assert not b.any()
    assert 0.99 * 48**-0.5 < np.abs(a).max() <= np.float32(48**-0.5)


def test_every_factor_is_drawn_apart_and_by_the_key():
    adapter = new_adapter(KEY, CONFIG, LoraSettings(rank=3))
    layers = [np.asarray(leaf["a"])[i, :, :32] for leaf in adapter.factors.values() for i in range(2)]
    assert len({layer.tobytes() for layer in layers}) == len(layers) == 14
    again, other = (new_adapter(key, CONFIG, LoraSettings(rank=3)) for key in (KEY, jax.random.key(6)))
    some = new_adapter(KEY, CONFIG, LoraSettings(rank=3, modules=("down_proj", "q_proj")))
    for module in MODULES:
        a = np.asarray(adapter.factors[module]["a"])
        assert a.tobytes() == np.asarray(again.factors[module]["a"]).tobytes()
        assert a.tobytes() != np.asarray(other.factors[module]["a"]).tobytes()
    assert set(some.factors) == {"q_proj", "down_proj"}
    check_adapter(some)
    np.testing.assert_array_equal(some.factors["q_proj"]["a"], adapter.factors["q_proj"]["a"])


def test_what_cannot_be_made_is_said():
    with pytest.raises(InputError, match="rank is 0; expected at least 1"):
        new_adapter(KEY, CONFIG, LoraSettings(rank=0))
    with pytest.raises(InputError, match="modules are q_proj, lm_head; expected some of q_proj, k_proj"):
        new_adapter(KEY, CONFIG, LoraSettings(modules=("q_proj", "lm_head")))
    with pytest.raises(InputError, match="modules are none"):
        new_adapter(KEY, CONFIG, LoraSettings(modules=()))


def test_a_new_model_has_the_models_shapes_and_layers_that_differ():
    model = Llama(CONFIG)
    params = new_params(KEY, model)
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, 2), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert (np.asarray(params["norm"]["scale"]) == 1).all()
    kernels = [np.asarray(params["layers"][name]["kernel"]) for name in MODULES]
    layers = [kernel[i].ravel()[:100].tobytes() for kernel in kernels for i in range(2)]
    assert len(set(layers)) == 14
