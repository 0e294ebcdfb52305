"""Compute the bytes that a device needs from shapes alone, without allocating anything or using a device.

Source: ``jax.eval_shape`` of the functions that the commands run.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from nlsr_jax.adapter import Adapter
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.errors import InputError
from nlsr_jax.models.attention import queries_at_once
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.token_log_probabilities import POSITIONS, WHOLE_LOGITS
from nlsr_jax.nlsr.statistics import init_statistics
from nlsr_jax.parallel import AXES, sharding
from nlsr_jax.training.initial import new_adapter
from nlsr_jax.training.optimizer import make_optimizer
from nlsr_jax.training.settings import LoraSettings, TrainingSettings
from nlsr_jax.training.step import adapter_forward


@dataclasses.dataclass(frozen=True)
class Load:
    """The workload of a device.

    Attributes:
      mesh: sizes of data, fsdp and tensor.
      batch_size: rows of a training step over all devices; rows per device in calibration and in generation, which
        is counted as if each device held all rows.
      length: tokens per row.
      dtype: dtype of the weights and the passes.
      lora: the adapter.
      remat: recompute a layer's activations in the backward pass instead of storing them.
      rows: calibration rows in all, for streaming, which keeps the layer inputs of all of them.
    """

    mesh: tuple[int, int, int] = (1, 1, 1)
    batch_size: int = 8
    length: int = 512
    dtype: str = "bfloat16"
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)
    remat: bool = True
    rows: int = 8


class Plan(NamedTuple):
    """Bytes on one device.

    Attributes:
      parts: bytes of each part by name.
      stages: the parts that a stage holds at once, by stage name.
    """

    parts: dict[str, int]
    stages: dict[str, tuple[str, ...]]

    def total(self, stage: str) -> int:
        """Return the bytes of a stage."""
        return sum(self.parts[part] for part in self.stages[stage])


STAGES = {
    "identification": ("weights", "gathered weights", "adapter", "statistics", "forward activations"),
    "training": (
        "weights", "gathered weights", "adapter", "gradient", "optimizer", "kept activations", "computed again",
        "logits at once",
    ),
    "generation": ("weights", "gathered weights", "adapter", "cache", "forward activations"),
    "streamed": (
        "two layers", "embedding or head", "adapter", "gradient", "inside one layer", "logits at once",
        "layer inputs",
    ),
    "inputs on disk": (
        "two layers", "embedding or head", "adapter", "gradient", "inside one layer", "logits at once",
    ),
}  # fmt: skip


def plan(config: ModelConfig, load: Load) -> Plan:
    """Return the memory plan of one device.

    Args:
      config: configuration of the model.
      load: the workload.

    Raises:
      InputError: if a size or the adapter is invalid.
    """
    if min(*load.mesh, load.batch_size, load.length, load.rows) < 1:
        raise InputError(
            f"mesh {load.mesh}, batch_size {load.batch_size}, length {load.length} and rows {load.rows} must be at "
            "least 1"
        )
    mesh = AbstractMesh(load.mesh, AXES, axis_types=(AxisType.Auto,) * 3)
    model, dtype = Llama(config), jnp.dtype(load.dtype)
    key = _key()
    shapes = jax.eval_shape(model.init, key, _tokens(1, 2))["params"]
    leaves = [(tuple(part.key for part in path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(shapes)]
    own = {path: math.prod(sharding(mesh, path, shape).shard_shape(shape)) for path, shape in leaves}
    layer = sum(math.prod(shape[1:]) for path, shape in leaves if path[0] == "layers")
    rest = sum(math.prod(shape) for path, shape in leaves if path[0] != "layers")
    adapter = jax.eval_shape(lambda key: new_adapter(key, config, load.lora), key)
    trained = size_of(adapter)
    settings = TrainingSettings(compute_dtype=load.dtype, remat=load.remat)
    optimizer = jax.eval_shape(make_optimizer(settings, 2).init, adapter.factors)
    split = load.mesh[0] * load.mesh[1]
    rows = load.batch_size if load.batch_size % split else load.batch_size // split
    one_layer = _layer_bytes(config, load)
    parts = {
        "weights": sum(own.values()) * dtype.itemsize,
        "gathered weights": (layer + rest) * dtype.itemsize if load.mesh[1] * load.mesh[2] > 1 else 0,
        "adapter": trained,
        "gradient": trained,
        "optimizer": size_of(optimizer),
        "statistics": size_of(jax.eval_shape(init_statistics, adapter)) * (1 + mesh.size),
        "kept activations": rows * kept_bytes(config, load, adapter),
        "computed again": rows * one_layer if load.remat else 0,
        "logits at once": logit_bytes(config, rows, load.length),
        "forward activations": load.batch_size * forward_bytes(config, load),
        "cache": _cache_bytes(config, load, dtype),
        "two layers": 2 * layer * dtype.itemsize,
        "embedding or head": config.vocab_size * config.hidden_size * dtype.itemsize,
        "layer inputs": (config.num_layers + 1) * load.rows * load.length * config.hidden_size * dtype.itemsize,
        "inside one layer": load.batch_size * one_layer,
    }
    return Plan(parts, STAGES)


def size_of(tree: Any) -> int:
    """Return the bytes of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def kept_bytes(config: ModelConfig, load: Load, adapter: Adapter, **changes: Any) -> int:
    """Return the bytes that one row keeps for the backward pass.

    Other data that the backward pass keeps, such as weights, does not grow with the rows, so the difference between
    two rows and one row is the cost of one row.
    """
    model = dataclasses.replace(Llama(config, remat=load.remat), **changes)
    forward = adapter_forward(model, adapter, jnp.dtype(load.dtype))
    shapes = jax.eval_shape(model.init, _key(), _tokens(1, 2))["params"]
    frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(load.dtype)), shapes)

    def residuals(factors, frozen, tokens) -> Any:
        return jax.vjp(lambda trainable: jnp.sum(forward(trainable, frozen, tokens)), factors)[1]

    one, two = (
        size_of(jax.eval_shape(residuals, adapter.factors, frozen, _tokens(rows, load.length))) for rows in (1, 2)
    )
    return two - one


def _layer_bytes(config: ModelConfig, load: Load) -> int:
    """Return the bytes that one layer of a row keeps for the backward pass without remat."""
    kept, all_of_it = [], jax.checkpoint_policies.everything_saveable
    for count in (1, 2):
        small = dataclasses.replace(config, num_layers=count, windowed=config.windowed[:count])
        adapter = jax.eval_shape(lambda key, small=small: new_adapter(key, small, load.lora), _key())
        kept.append(kept_bytes(small, dataclasses.replace(load, remat=False), adapter, keep=all_of_it))
    return kept[1] - kept[0]


def forward_bytes(config: ModelConfig, load: Load) -> int:
    """Return the peak bytes of one row in a forward pass without a backward pass."""
    itemsize = jnp.dtype(load.dtype).itemsize
    inner = config.hidden_size + 2 * config.intermediate_size
    if config.experts is not None:  # the rows of every choice, and what an expert makes of them
        inner = config.hidden_size + config.experts.chosen * (2 * config.hidden_size + 2 * config.experts.size)
    feed_forward = load.length * inner * itemsize
    scores = config.num_heads * queries_at_once(load.length) * load.length * 4
    return max(feed_forward, scores + load.length * config.hidden_size * 3 * itemsize)


def logit_bytes(config: ModelConfig, rows: int, length: int) -> int:
    """Return the bytes of the logits that training computes in parts, and of their exponentials.

    If they are few enough to be kept, ``kept_bytes`` includes them.
    """
    positions = rows * (length - 1)
    if positions * config.vocab_size <= WHOLE_LOGITS:
        return 0
    return 2 * min(positions, max(POSITIONS, rows)) * config.vocab_size * jnp.dtype(jnp.float32).itemsize


def _cache_bytes(config: ModelConfig, load: Load, dtype) -> int:
    size = config.num_layers * load.batch_size * config.num_kv_heads * load.length * config.head_dim
    return 2 * size * dtype.itemsize


def _tokens(rows: int, length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, length), jnp.int32)


def _key():
    return jax.eval_shape(lambda: jax.random.key(0))
