"""Initial states: a new LoRA adapter, a new model."""

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.models.llama import Llama
from nlsr_jax.random_streams import stream
from nlsr_jax.training.settings import LoraSettings, check_lora
from nlsr_jax.types import Params


def new_adapter(key: jax.Array, config: ModelConfig, settings: LoraSettings) -> Adapter:
    """Return an adapter that is initially zero: ``a`` uniform in ±1/√k, ``b`` zero, as in PEFT.

    Args:
      key: PRNG key.
      config: model configuration.
      settings: rank, alpha and modules.

    Raises:
      InputError: if ``check_lora`` refuses the settings.
    """
    check_lora(settings)
    factors = {}
    for module, (k, d) in config.projections().items():
        if module in settings.modules:
            shape, bound = (config.num_layers, settings.rank, k), k**-0.5
            a = jax.random.uniform(stream(key, module), shape, jnp.float32, -bound, bound)
            factors[module] = {"a": a, "b": jnp.zeros((config.num_layers, d, settings.rank), jnp.float32)}
    return Adapter(factors, settings.alpha / settings.rank)


def new_params(key: jax.Array, model: Llama) -> Params:
    """Return random float32 parameters of a model.

    Each weight is normal with standard deviation ``1/√in-features``, which suits shallow and narrow models; the
    two projections that write into the residual stream are smaller by ``√(2 L)``. The embedding has a standard
    deviation of 1, so that tokens stay readable above the layers' contributions and copying is learnt early.

    Args:
      key: PRNG key.
      model: a Llama.
    """
    shapes = jax.eval_shape(model.init, key, jnp.zeros((1, 2), jnp.int32))["params"]

    def draw(path, leaf):
        names = [part.key for part in path]
        if names[-1] == "scale":
            return jnp.ones(leaf.shape, jnp.float32)
        if names[-1] == "bias":
            return jnp.zeros(leaf.shape, jnp.float32)
        deviation = 1.0 if names[-1] == "embed" else leaf.shape[-1] ** -0.5
        if "o_proj" in names or "down_proj" in names:
            deviation /= (2 * model.config.num_layers) ** 0.5
        return deviation * jax.random.normal(stream(key, "/".join(names)), leaf.shape, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
