"""Measure the cost of a calibration pass against the plain forward pass, and its memory with more tokens.

  python -m benchmarks.calibration [--batch 16 --length 256 --batches 4 --rounds 5]

Time: `collect_statistics` over batches against the logits of the same model, adapter and batches, alternating in
one process, without compilation. Memory: whole processes that collect statistics over the batches, and over 16
times as many, which are read and released one at a time; peak resident bytes. Run time: two minutes on two cores.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np
from absl import app, flags

from benchmarks.limits import (
    Limit,
    Product,
    attention_products,
    forward_products,
    merge_products,
    of_products,
    readers,
    with_limit,
)
from benchmarks.measure import append_result, define_flags, in_turn, ratios, run_process
from benchmarks.peers import VOCABULARY, write_models
from nlsr_jax.architecture.config import ModelConfig

FLAGS = flags.FLAGS
MORE, RANK = 16, 16
_COLLECT = """
import pathlib, sys
from benchmarks.calibration import load, collect
folder, batch, length, count = sys.argv[1], *map(int, sys.argv[2:])
collect(load(pathlib.Path(folder)), batch, length, count)
"""


def load(folder: pathlib.Path):
    """Return model, parameters and adapter written by ``write_models``."""
    from nlsr_jax import load_adapter, load_model

    model, params = load_model(folder / "base")
    return model, params, load_adapter(folder / "adapter", model.config)


def draw(batch: int, length: int, count: int):
    """Yield batches of random tokens; the second half of each row is the response."""
    rng = np.random.default_rng(0)
    mask = np.broadcast_to(np.arange(length) >= length // 2, (batch, length))
    for _ in range(count):
        yield rng.integers(3, VOCABULARY, (batch, length), np.int32), mask


def collect(parts, batch: int, length: int, count: int):
    """Collect the statistics of ``count`` batches."""
    from nlsr_jax import collect_statistics

    model, params, adapter = parts
    return jax.block_until_ready(collect_statistics(model, params, adapter, draw(batch, length, count)))


def forward(parts, batch: int, length: int, count: int) -> None:
    """Run the plain forward pass over the same batches."""
    from nlsr_jax import logits

    model, params, adapter = parts
    for tokens, _ in draw(batch, length, count):
        jax.block_until_ready(logits(model, params, tokens, adapter=adapter))


def limit(config: ModelConfig, rank: int, batch: int, length: int, count: int) -> Limit:
    """Return the limit of a calibration pass: the products of a pass without logits, ``A x``, and its Gram matrix.

    Only responses count for the last two.
    """
    found = forward_products(config, batch * length, head_rows=0) + attention_products(config, batch, length)
    positions, layers = batch * (length - length // 2), config.num_layers
    for k, widths in readers(config):
        found.append(Product(positions, k, rank * len(widths), count=layers))
        found.append(Product(rank, positions, rank, count=layers * len(widths)))
    found += merge_products(config, rank)
    return of_products(one._replace(times=count) for one in found)


def overhead(folder: pathlib.Path, batch: int, length: int, count: int, rounds: int) -> dict:
    """Time both alternately; the ratio is that of the forward pass to the calibration pass."""
    parts = load(folder)
    arguments = parts, batch, length
    forward(*arguments, 1)  # compiles, like the next line
    collect(*arguments, 1)
    found = in_turn(rounds, lambda: forward(*arguments, count), lambda: collect(*arguments, count))
    return with_limit(found, limit(parts[0].config, RANK, batch, length, count))


def memory(folder: pathlib.Path, batch: int, length: int, count: int, rounds: int) -> dict:
    """Measure peaks of processes over few and ``MORE`` times as many batches, in gigabytes; few are the peer."""
    command = [sys.executable, "-c", _COLLECT, str(folder), str(batch), str(length)]
    pairs = [
        tuple(run_process([*command, str(number)]).peak / 1e9 for number in (count, MORE * count))
        for _ in range(rounds)
    ]
    return ratios([few for few, _ in pairs], [many for _, many in pairs])


def run(batch: int, length: int, count: int, rounds: int) -> dict[str, dict]:
    """Measure both."""
    shape = {"batch": batch, "length": length, "batches": count}
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        write_models(folder, RANK)
        time_ = overhead(folder, batch, length, count, rounds)
        memory_ = memory(folder, batch, length, count, rounds)
    return {
        "calibration_overhead": {**time_, **shape, "unit": "s"},
        "calibration_memory": {**memory_, **shape, "more": MORE, "unit": "GB"},
    }


def main(_) -> None:
    """Measure, print and append the results."""
    results = run(FLAGS.batch, FLAGS.length, FLAGS.batches, FLAGS.rounds)
    for name, result in results.items():
        append_result(name, result, result.pop("unit"), FLAGS.results)
    time_, memory_ = results.values()
    print(f"calibration pass: {1 / time_['ratio']:.2f} x the forward pass (up to {1 / time_['low']:.2f})")
    print(f"{MORE} times the tokens: {100 / memory_['ratio'] - 100:+.1f} % peak memory")


if __name__ == "__main__":
    flags.DEFINE_integer("batch", 16, "Rows per batch.", lower_bound=1)
    flags.DEFINE_integer("length", 256, "Tokens per row.", lower_bound=2)
    flags.DEFINE_integer("batches", 4, "Batches.", lower_bound=1)
    define_flags(rounds=5)
    app.run(main)
