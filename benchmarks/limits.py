"""The least time that a benchmark's work takes on this machine, measured in the same process.

Work that no program for the same results avoids is timed alone: matrix products at their shapes, or bytes that have
to be read and written. A benchmark's share of its limit is this time through its own.

Products are timed with NumPy and with XLA, whichever is faster. What a model computes between its products
(normalisations, softmax, the optimiser) is not counted.

Axis legend: m rows, k contracted, n columns; r rank of an adapter.
"""

import concurrent.futures
import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.architecture.config import ModelConfig

_REPEATS = 5
_LEAST = 0.01
_SAMPLE = 1 << 28
_BLOCK = 1 << 23
_SAME_INPUT = ("q_proj", "k_proj", "v_proj")


class Limit(NamedTuple):
    """A least time.

    Attributes:
      seconds: the time.
      of: what takes it, in a few words.
    """

    seconds: float
    of: str


class Product(NamedTuple):
    """Products ``[m, k] @ [k, n]`` of float32 matrices.

    Attributes:
      m, k, n: the shape.
      count: how many calls, each with its own right operand.
      batch: how many products of this shape a call computes.
      times: how often all of these calls are made.
    """

    m: int
    k: int
    n: int
    count: int = 1
    batch: int = 1
    times: int = 1


def with_limit(result: dict, limit: Limit) -> dict:
    """Return a result with its limit, and with the share of the limit that ours reaches."""
    share = limit.seconds / result["ours"]
    return {**result, "limit_s": round(limit.seconds, 4), "share": round(share, 3), "limit_of": limit.of}


def fastest(function: Callable[[], Any]) -> float:
    """Return the shortest duration of a call in seconds, after one that is not counted.

    Short calls are timed many at a time.
    """
    function()
    started = time.perf_counter()
    function()
    number = 1 + int(_LEAST / max(time.perf_counter() - started, 1e-7))
    found = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        for _ in range(number):
            function()
        found.append((time.perf_counter() - started) / number)
    return min(found)


def product_seconds(product: Product) -> float:
    """Return the duration of the products in seconds, with NumPy or with XLA, whichever is faster."""
    return product.times * _call_seconds(product._replace(times=1))


@functools.cache
def _call_seconds(product: Product) -> float:
    draw = np.random.default_rng(0)
    lead = (product.batch,) if product.batch > 1 else ()
    left = draw.standard_normal((*lead, product.m, product.k), np.float32)
    rights = [draw.standard_normal((*lead, product.k, product.n), np.float32) for _ in range(product.count)]
    place = np.empty((*lead, product.m, product.n), np.float32)

    def with_numpy():
        for right in rights:
            np.matmul(left, right, out=place)

    compiled = jax.jit(lambda one, others: [one @ other for other in others])
    given = jnp.asarray(left), [jnp.asarray(right) for right in rights]
    with_xla = fastest(lambda: jax.block_until_ready(compiled(*given)))
    return min(fastest(with_numpy), with_xla)


def of_products(products: Iterable[Product]) -> Limit:
    """Return the limit of a list of products: the sum of their durations."""
    products = list(products)
    seconds = sum(map(product_seconds, products))
    flops = sum(2 * p.m * p.k * p.n * p.count * p.batch * p.times for p in products)
    return Limit(seconds, f"products at {flops / seconds / 1e9:.0f} GFLOP/s")


@functools.cache
def bandwidth() -> float:
    """Return how many bytes a second all cores together read and write when they copy large arrays."""
    cores = os.cpu_count() or 1
    source = np.ones((cores, _SAMPLE // cores), np.uint8)
    target = np.zeros_like(source)
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        seconds = fastest(lambda: list(pool.map(np.copyto, target, source)))
    return 2 * source.nbytes / seconds


def of_bytes(count: int) -> Limit:
    """Return the limit of reading or writing so many bytes of memory."""
    rate = bandwidth()
    return Limit(count / rate, f"moving {count / 1e9:.2g} GB at {rate / 1e9:.3g} GB/s")


def copying_seconds(sources: Sequence[pathlib.Path], target: pathlib.Path) -> float:
    """Return how long one core takes to read files, and to write as many bytes as the last one has."""
    block = memoryview(bytearray(_BLOCK))

    def copy() -> float:
        started = time.perf_counter()
        with target.open("wb", buffering=0) as copied:
            for source in sources:
                with source.open("rb", buffering=0) as file:
                    while count := file.readinto(block):
                        if source == sources[-1]:
                            copied.write(block[:count])
        return time.perf_counter() - started

    return min(copy() for _ in range(2))


def hashing_seconds(count: int) -> float:
    """Return how long one core takes to compute SHA-256 of so many bytes."""
    sample = bytes(_SAMPLE // 4)
    return fastest(lambda: hashlib.sha256(sample).digest()) * count / len(sample)


def of_realignment(sources: Sequence[pathlib.Path], target: pathlib.Path, products: Iterable[Product]) -> Limit:
    """Return the limit of a realignment from files to a file, with all of its work spread evenly over the cores.

    Args:
      sources: the files to read, of equal size, each of which is digested, as is the one that is written.
      target: the file to write.
      products: the products of the similarities.
    """
    size = sum(source.stat().st_size for source in sources)
    whole = size + sources[-1].stat().st_size
    files = copying_seconds(sources, target) + hashing_seconds(whole)
    seconds = files / (os.cpu_count() or 1) + of_products(products).seconds
    return Limit(seconds, f"copying and SHA-256 of {whole / 1e9:.2g} GB, products of similarities")


def similarity_products(shapes: Iterable[tuple[int, int]], rank: int, *, times: int = 1) -> list[Product]:
    """Return the products of the similarity of two adapters: three inner products of each factor.

    Args:
      shapes: in-features k and out-features d of the modules.
      rank: r.
      times: number of layers.
    """
    return [Product(rank, size, rank, count=3, times=times) for shape in shapes for size in shape]


def forward_products(
    config: ModelConfig, rows: int, rank: int, *, head_rows: int | None = None, times: int = 1
) -> list[Product]:
    """Return the products of a forward pass with an adapter on all projections, without attention.

    Args:
      config: configuration of the model.
      rows: number of positions.
      rank: r.
      head_rows: number of positions whose logits are computed; all by default.
      times: number of passes.
    """
    found = []
    for k, d in config.projections().values():
        shapes = ((k, d), (k, rank), (rank, d))
        found += [Product(rows, *shape, count=config.num_layers, times=times) for shape in shapes]
    head_rows = rows if head_rows is None else head_rows
    if head_rows:
        found.append(Product(head_rows, config.hidden_size, config.vocab_size, times=times))
    return found


def attention_products(config: ModelConfig, batch: int, length: int) -> list[Product]:
    """Return the two products of causal attention, with half of the keys for every query, which is their mean."""
    keys, heads = (length + 1) // 2, batch * config.num_heads
    shapes = ((length, config.head_dim, keys), (length, keys, config.head_dim))
    return [Product(*shape, count=config.num_layers, batch=heads) for shape in shapes]


def training_products(config: ModelConfig, batch: int, length: int, rank: int) -> list[Product]:
    """Return the products of a LoRA training step: those of the forward pass, and of the gradients.

    The base is frozen, so its weights have no gradients; nor has the input of the first layer.
    """
    rows, layers = batch * length, config.num_layers
    found = forward_products(config, rows, rank)
    found += [one._replace(times=3) for one in attention_products(config, batch, length)]
    found.append(Product(rows, config.vocab_size, config.hidden_size))
    for module, (k, d) in config.projections().items():
        deeper = layers - (module in _SAME_INPUT)
        found += [Product(rows, d, k, count=deeper), Product(rows, rank, k, count=deeper)]
        found += [Product(*shape, count=layers) for shape in ((rows, d, rank), (d, rows, rank), (rank, rows, k))]
    return [one for one in found if one.count]
