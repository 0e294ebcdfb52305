"""What ``nlsr realign --stream`` takes for one gradient over the calibration rows: memory, disk and time.

Every layer is read twice: on the way forward, and on the way back, where it is computed again. Embedding and head
are in memory only while no layer is. The base's weights have no gradient, so each of their products is computed
three times: forward, again, and for the derivative of its input.
"""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.planning.memory import Load, plan

FIXED = 500_000_000
"""Bytes of the interpreter, its libraries and compiled programs, measured with a base of almost no size."""
LAYERS, ADAPTERS = 3, 5
"""Layers in memory: one that computes, the next one, and one on its way to the device. Copies of the adapter."""
_PASSES = 3
_LARGEST = 2**28


class Speed(NamedTuple):
    """What a machine does in a second.

    Attributes:
      operations: floating-point operations of matrix products.
      reading: bytes read from the disk, or written to it.
    """

    operations: float
    reading: float


class StreamedPlan(NamedTuple):
    """What a streamed gradient takes.

    Attributes:
      memory: bytes at the peak, by part.
      disk: bytes of the layers' inputs in a file beside the output; 0 where they are kept in memory.
      reading: bytes of weights that are read.
      operations: floating-point operations.
    """

    memory: dict[str, int]
    disk: int
    reading: int
    operations: float

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    def seconds(self, speed: Speed) -> float:
        """Return how long it takes: the next layer is read while one computes; inputs are written and read too."""
        layers = max(self.operations / speed.operations, self.reading / speed.reading)
        return layers + 2 * self.disk / speed.reading


def plan_streamed(config: ModelConfig, load: Load, kept: int | None = None) -> StreamedPlan:
    """Return what a streamed gradient of an adapter takes.

    Args:
      config: configuration of the model.
      load: the workload; ``rows`` is the number of calibration rows.
      kept: bytes of the layers' inputs up to which they are kept in memory; None for any number.

    Raises:
      InputError: if a size or the adapter is invalid.
    """
    parts = plan(config, load).parts
    inputs = parts["layer inputs"]
    disk = inputs if kept is not None and inputs > kept else 0
    layers = {"three layers": LAYERS * parts["two layers"] // 2, "inside one layer": parts["inside one layer"]}
    head = {name: parts[name] for name in ("embedding or head", "logits at once")}
    memory = {
        **max(layers, head, key=lambda phase: sum(phase.values())),
        "copies of the adapter": ADAPTERS * parts["adapter"],
        "layer inputs": inputs - disk,
        "interpreter and programs": FIXED,
    }
    reading = config.num_layers * parts["two layers"] + 2 * parts["embedding or head"]
    return StreamedPlan(memory, disk, reading, _operations(config, load, parts["adapter"] // 4))


def _operations(config: ModelConfig, load: Load, adapter: int) -> float:
    """Return the operations of all rows; experts that a position does not go through do not count."""
    sizes = [k * d for k, d in config.projections().values()]
    if config.experts is not None:
        sizes.append(3 * config.hidden_size * config.experts.size * config.experts.chosen)
    products = config.num_layers * sum(sizes) + config.vocab_size * config.hidden_size
    # Scores and their products with the values: forward and again, and twice as many for their derivatives.
    attention = 4 * 4 * config.num_layers * load.length * config.num_heads * config.head_dim
    # The factors have a gradient too.
    return float(load.rows * load.length) * (2 * _PASSES * products + 2 * (_PASSES + 1) * adapter + attention)


def measure_speed(config: ModelConfig, dtype: str, reading: float, seconds: float = 1.0) -> Speed:
    """Time the products of a layer on this machine's device.

    Args:
      config: configuration of the model.
      dtype: float type of the products.
      reading: bytes that the disk reads in a second.
      seconds: how long to measure.

    Returns:
      ``Speed`` of a product of 512 positions, of at most 256 MiB of weights.
    """
    k = config.hidden_size
    d = max(min(config.intermediate_size, _LARGEST // (jnp.dtype(dtype).itemsize * k)), 1)
    x, w = (jnp.asarray(np.ones(shape), dtype) for shape in ((512, k), (d, k)))
    product = jax.jit(lambda x, w: x @ w.T)
    jax.block_until_ready(product(x, w))
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        jax.block_until_ready(product(x, w))
        count += 1
    return Speed(2.0 * math.prod((512, k, d)) * count / (time.perf_counter() - start), reading)
