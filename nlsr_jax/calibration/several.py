"""The gradient of the loss at several adapters in one pass.

Axis legend: N adapters, B batch, T positions, L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, check_same_structure
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.calibration.capture import check_response, mean_of, measure_loss_gradient
from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama
from nlsr_jax.types import Gradients, Params


def collect_loss_gradients(
    model: Llama, params: Params, adapters: Sequence[Adapter], batches: Iterable
) -> list[Gradients]:
    """Average ∂L/∂W over examples at several adapters; see ``collect_loss_gradient``.

    The base's weights are read once for all. What is in memory for the derivative is in memory N times. On the CPU
    a pass for each adapter is faster; see ``nlsr_jax.hardware.shares_passes``.

    Args:
      model, params: from ``load_model``; on one device.
      adapters: N adapters of the same modules, layers, ranks and scaling.
      batches: see ``collect_loss_gradient``.

    Returns:
      A tree for each adapter, equal to ``collect_loss_gradient`` of it up to rounding.

    Raises:
      InputError: adapters that do not fit the model or one another, or a batch that does not fit.
    """
    for number, adapter in enumerate(adapters):
        check_adapter_fits(adapter, model.config, f"adapter {number}")
        check_same_structure(adapters[0], adapter, ("adapter 0", f"adapter {number}"))
    wide = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(one.factors)) for one in adapters]
    factors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *wide)
    stacked = dataclasses.replace(adapters[0], factors=factors)
    parts = over_batches(_measure_each, model, params, stacked, _checked(model, batches))
    sums, counts = zip(*parts, strict=True)
    mean = mean_of([(total, count[0]) for total, count in zip(sums, counts, strict=True)], factors)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], mean) for i in range(len(adapters))]


def _checked(model: Llama, batches: Iterable) -> Iterator[tuple]:
    for batch in batches:
        if len(batch) != 2:
            raise InputError(f"the gradient of the loss takes batches of 2 arrays, found {len(batch)}")
        check_response(model, *batch)
        yield tuple(batch)


def _measure_each(model: Llama, params: Params, adapters: Adapter, batch: tuple):
    """Sums ``[N, …]`` of the gradients of the rows' losses, and how many rows count ``[N]``."""
    return jax.vmap(lambda one: measure_loss_gradient(model, params, one, batch))(adapters)
