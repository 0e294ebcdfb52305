"""The least time that a benchmark's work takes on this machine, measured in the same process.

The main work of a line is timed alone: matrix products at their shapes, or bytes that have to be read and written.
The share of the limit is this time divided by the line's own.

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
_LEAST, _MOST = 0.01, 0.3
"""Seconds of one measurement, and seconds after which there is no further one."""
_SAMPLE = 1 << 28
_BLOCK = 1 << 23


class Limit(NamedTuple):
    """A least time.

    Attributes:
      seconds: the time.
      of: what takes it, in a few words.
    """

    seconds: float
    of: str


class Product(NamedTuple):
    """Products ``[m, k] @ [k, n]`` of matrices.

    Attributes:
      m, k, n: the shape.
      count: how many calls, each with its own right operand.
      batch: how many products of this shape a call computes.
      times: how often all of these calls are made.
      dtype: of the matrices; those of bfloat16 have float32 results.
    """

    m: int
    k: int
    n: int
    count: int = 1
    batch: int = 1
    times: int = 1
    dtype: str = "float32"


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
    found: list[float] = []
    while len(found) < _REPEATS and sum(found) * number < _MOST:
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

    multiply = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    compiled = jax.jit(lambda one, others: [multiply(one, other) for other in others])
    given = jnp.asarray(left, product.dtype), [jnp.asarray(right, product.dtype) for right in rights]
    with_xla = fastest(lambda: jax.block_until_ready(compiled(*given)))
    return min(fastest(with_numpy), with_xla) if product.dtype == "float32" else with_xla


def of_products(products: Iterable[Product]) -> Limit:
    """Return the limit of a list of products: the sum of their durations."""
    products = list(products)
    seconds = sum(map(product_seconds, products))
    return Limit(seconds, f"products at {operations(products) / seconds / 1e9:.0f} GFLOP/s")


def in_dtype(products: Iterable[Product], dtype: str) -> list[Product]:
    """Return the products in another type."""
    return [product._replace(dtype=dtype) for product in products]


def operations(products: Iterable[Product]) -> int:
    """Return the number of floating-point operations of products."""
    return sum(2 * p.m * p.k * p.n * p.count * p.batch * p.times for p in products)


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
      products: the products that are computed on the way.
    """
    size = sum(source.stat().st_size for source in sources)
    whole = size + sources[-1].stat().st_size
    copying, hashing, least = copying_seconds(sources, target), hashing_seconds(whole), of_products(products)
    seconds = (copying + hashing) / (os.cpu_count() or 1) + least.seconds
    rates = (f"{whole / 1e9 / part:.2g} GB/s" for part in (copying, hashing))
    return Limit(seconds, "copying {} GB at {}, SHA-256 at {}, {}".format(f"{whole / 1e9:.2g}", *rates, least.of))


def similarity_products(shapes: Iterable[tuple[int, int]], rank: int, *, times: int = 1) -> list[Product]:
    """Return the products of the similarity of two adapters: three of each factor.

    Args:
      shapes: in-features k and out-features d of the modules.
      rank: r.
      times: how often similarities of all modules are computed.
    """
    return [Product(rank, size, rank, count=3, times=times) for shape in shapes for size in shape]


def readers(config: ModelConfig) -> list[tuple[int, list[int]]]:
    """Return in-features k and the out-features d of the projections that read the same input, input by input."""
    sizes, table = config.projections(), config.table
    groups = (table.attention_inputs, ("o_proj",), table.feed_forward_inputs, ("down_proj",))
    return [(sizes[group[0]][0], [sizes[module][1] for module in group]) for group in groups]


def forward_products(
    config: ModelConfig, rows: int, *, head_rows: int | None = None, times: int = 1
) -> list[Product]:
    """Return the products of a forward pass without attention.

    Projections that read the same input are one product. Those of an adapter come on top: ``merge_products`` or
    ``thin_products``.

    Args:
      config: configuration of the model.
      rows: number of positions.
      head_rows: number of positions whose logits are computed; all by default.
      times: number of passes.
    """
    layers, head_rows = config.num_layers, rows if head_rows is None else head_rows
    found = [Product(rows, k, sum(widths), count=layers, times=times) for k, widths in readers(config)]
    if head_rows:
        found.append(Product(head_rows, config.hidden_size, config.vocab_size, times=times))
    return found


def merge_products(config: ModelConfig, rank: int) -> list[Product]:
    """Return the products ``B A`` of an adapter on all projections, which is then added to the weights."""
    return [Product(d, rank, k, count=config.num_layers) for k, widths in readers(config) for d in widths]


def thin_products(config: ModelConfig, rows: int, rank: int, *, times: int = 1) -> list[Product]:
    """Return the products of positions with A, and of the results with B, for an adapter on all projections."""
    layers, found = config.num_layers, []
    for k, widths in readers(config):
        found.append(Product(rows, k, rank * len(widths), count=layers, times=times))
        found += [Product(rows, rank, d, count=layers, times=times) for d in widths]
    return found


def projection_products(k: int, d: int, rank: int, kept: int) -> list[Product]:
    """Return the products that project the factors of a module, behind the Gram matrix of ``A X``.

    Args:
      k, d: in-features and out-features.
      rank: r.
      kept: r*, the rank that is kept.
    """
    if 2 * kept > rank:
        return [Product(rank, d, rank), Product(rank, rank, k), Product(d, rank, rank)]
    shapes = ((rank, d, rank), (kept, rank, k), (rank, kept, k), (d, rank, kept), (d, kept, rank))
    return [Product(*shape) for shape in shapes]


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
    found = forward_products(config, rows) + merge_products(config, rank)
    found += [one._replace(times=3) for one in attention_products(config, batch, length)]
    found.append(Product(rows, config.vocab_size, config.hidden_size))
    for number, (k, widths) in enumerate(readers(config)):
        found.append(Product(rows, sum(widths), k, count=layers - (number == 0)))
        found += [
            Product(rows, k, rank * len(widths), count=layers),
            Product(rank * len(widths), rows, k, count=layers),
        ]
        found += [Product(*shape, count=layers) for d in widths for shape in ((rows, d, rank), (d, rows, rank))]
    return [one for one in found if one.count]
