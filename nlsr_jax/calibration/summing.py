"""What passes over the calibration data have in common: the check of a batch, sums over rows and their mean.

Axis legend: B batch, T positions.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import check_array, check_tokens


def check_response(model: Llama, tokens: jax.Array, response: jax.Array) -> None:
    """Check that a batch fits.

    Args:
      model: that will run over it.
      tokens: ``[B, T]`` int32.
      response: ``[B, T]``, where the tokens of the responses are.

    Raises:
      InputError: tokens that the model does not have, or a mask of another shape.
    """
    check_tokens(model, tokens)
    check_array(response, "response_mask")
    if response.shape != tokens.shape:
        raise InputError(f"response_mask is {list(response.shape)}; expected {list(tokens.shape)} as tokens")


def wide(adapter: Adapter) -> Adapter:
    """Return an adapter whose factors are float32."""
    factors = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(adapter.factors))
    return dataclasses.replace(adapter, factors=factors)


@jax.jit
def add(first: Any, second: Any) -> Any:
    """Return the sum of two trees, leaf by leaf."""
    return jax.tree.map(jnp.add, first, second)


def mean_of(parts: Iterable[tuple], like: Any) -> Any:
    """Return the mean over rows of sums and counts; zeros like ``like`` where there is none."""
    return divided(*functools.reduce(add, parts, nothing(like)))


def nothing(like: Any) -> tuple[Any, np.ndarray]:
    """Return the sums and the count of no rows, in host memory: nothing is compiled for them."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like), np.zeros((), np.float32)


@jax.jit
def divided(total: Any, count: jax.Array) -> Any:
    """Return a tree of sums over rows divided by their count, a float32 scalar; zeros stay where it is 0."""
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), total)
