"""Measure how the cost of identification grows with rows, layers and rank, and run it once over a whole base.

  python -m benchmarks.cost [--rounds 2 --work DIR]

The base has the shape of TinyLlama-1.1B (random, bfloat16), the adapter rank 128 on all projections, the rows 64
tokens. Identification is the published one: `collect_statistics` over the rows in batches of 16, then `identify`.
Time: in one process without compilation, for several numbers of rows, of layers and several ranks in turn, with
the base in memory and streamed. The CPU seconds of all threads count, because other work on the machine hardly
changes them; elapsed seconds are recorded beside them. Then `nlsr identify` over all layers, each way once.
Memory: processes of the same command, with few and with many rows. An exponent is the slope of a straight line
through the logarithms of sizes and costs, fitted by least squares; nothing is subtracted. Run time: seven minutes
on two cores; 5 GB of disk.
"""

import filecmp
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks.calibration import draw
from benchmarks.cost_world import BATCH, LENGTH, STREAMED, WAYS, Cell, World, make_world, of_rank
from benchmarks.limits import (
    Product,
    attention_products,
    forward_products,
    operations,
    projection_products,
    readers,
    thin_products,
)
from benchmarks.measure import append_result, define_flags
from benchmarks.streaming import SHAPE
from benchmarks.table import COST_FILE
from nlsr_jax.adapter import Adapter
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.commands import path_flags
from nlsr_jax.nlsr.low_rank import kept_rank
from nlsr_jax.nlsr.settings import PUBLISHED

FLAGS = flags.FLAGS
RANK = 128


class Seconds(NamedTuple):
    """Durations of an identification.

    Attributes:
      statistics, masks: CPU seconds of its two parts.
      clock: elapsed seconds of both.
    """

    statistics: float
    masks: float
    clock: float

    @property
    def whole(self) -> float:
        """Return the CPU seconds of both parts."""
        return self.statistics + self.masks


class Sizes(NamedTuple):
    """What is measured.

    Attributes:
      sweeps: cells that differ in one field, by its name.
      memory: cells that differ in their rows, for the peak memory of processes.
      full: the run over all layers.
    """

    sweeps: Mapping[str, Sequence[Cell]]
    memory: Sequence[Cell]
    full: Cell


SIZES = Sizes(
    {
        "rows": [Cell(rows, 2, RANK) for rows in (32, 64, 128)],
        "layers": [Cell(16, layers, RANK) for layers in (2, 4, 8)],
        "rank": [Cell(32, 2, rank) for rank in (16, 32, 64, 128)],
    },
    [Cell(rows, 2, RANK) for rows in (16, 128)],
    Cell(32, SHAPE["num_hidden_layers"], RANK),
)


def identification(model: Any, params: Any, adapter: Adapter, rows: int) -> Seconds:
    """Identify the safety-critical entries of an adapter; returns the seconds."""
    from nlsr_jax import collect_statistics, identify

    clock, start = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(collect_statistics(model, params, adapter, draw(BATCH, LENGTH, rows // BATCH)))
    middle = time.process_time()
    jax.block_until_ready(identify(adapter, found, sparsity=PUBLISHED.sparsity))
    return Seconds(middle - start, time.process_time() - middle, time.perf_counter() - clock)


def count_operations(config: ModelConfig, cell: Cell) -> int:
    """Return the floating-point operations of the matrix products of an identification of all layers.

    Those of the forward pass with the adapter, the Gram matrices of the responses, and the projections of the
    factors. Factorisations of r × r matrices do not count.
    """
    rank, positions, layers = cell.rank, BATCH * LENGTH, config.num_layers
    batch = forward_products(config, positions, head_rows=0) + thin_products(config, positions, rank)
    batch += attention_products(config, BATCH, LENGTH)
    projections = []
    for k, widths in readers(config):
        batch.append(Product(rank, positions // 2, rank, count=layers * len(widths)))
        for d in widths:
            projections += projection_products(k, d, rank, kept_rank(rank, PUBLISHED.sparsity))
    return cell.rows // BATCH * operations(batch) + layers * operations(projections)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of the least-squares line through the logarithms of sizes and costs."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def growth(sizes: Sequence[int], rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the median, lowest and highest of the exponents of the rounds, and the median costs."""
    found = [exponent(sizes, costs) for costs in rounds]
    medians = [round(statistics.median(costs), 3) for costs in zip(*rounds, strict=True)]
    exponents = {"exponent": statistics.median(found), "low": min(found), "high": max(found)}
    return {**{name: round(value, 3) for name, value in exponents.items()}, "sizes": list(sizes), "costs": medians}


def time_cells(world: World, cells: Sequence[Cell], rounds: int, way: str) -> list[dict[Cell, Seconds]]:
    """Return the durations of the cells, round by round; what they compile runs before."""
    opened = {layers: world.open(layers, way) for layers in {cell.layers for cell in cells}}

    def run(cell: Cell) -> Seconds:
        model, params, adapter = opened[cell.layers]
        return identification(model, params, of_rank(adapter, cell.rank), cell.rows)

    # One batch compiles the pass, a second one the sum of the batches.
    for cell in dict.fromkeys(cell._replace(rows=min(cell.rows, 2 * BATCH)) for cell in reversed(cells)):
        run(cell)
    found = []
    for number in range(rounds):
        print(f"time, {way}: round {number + 1} of {rounds}", flush=True)
        found.append({cell: run(cell) for cell in cells})
    return found


def times(world: World, sweeps: Mapping[str, Sequence[Cell]], rounds: int, way: str) -> dict[str, dict]:
    """Return how the time of the whole and of its parts grows with each size."""
    cells = list(dict.fromkeys(cell for sweep in sweeps.values() for cell in sweep))
    found = time_cells(world, cells, rounds, way)
    results = {}
    for by, sweep in sweeps.items():
        sizes = [getattr(cell, by) for cell in sweep]
        counted = exponent(sizes, [count_operations(world.config(cell.layers), cell) for cell in sweep])
        parts = {
            part: growth(sizes, [[getattr(one[cell], part) for cell in sweep] for one in found])
            for part in ("whole", *Seconds._fields)
        }
        fixed = {name: getattr(sweep[0], name) for name in Cell._fields if name != by}
        results[by] = {**parts.pop("whole"), "counted": round(counted, 3), **fixed, "parts": parts}
    return results


def full(world: World, cell: Cell, way: str) -> dict[str, Any]:
    """Return seconds and peak gigabytes of a process that identifies all layers and compiles its programs."""
    found = world.identify(cell, way)
    return {"seconds": round(found.seconds, 1), "peak": round(found.peak / 1e9, 3), **cell._asdict()}


def memory(world: World, cells: Sequence[Cell], way: str) -> dict[str, Any]:
    """Return how the peak memory of processes grows with their rows, in gigabytes."""
    world.identify(cells[0], way)  # compiles
    peaks = [world.identify(cell, way).peak / 1e9 for cell in cells]
    return {**growth([cell.rows for cell in cells], [peaks]), "layers": cells[0].layers, "rank": cells[0].rank}


def measure(world: World, sizes: Sizes, rounds: int) -> dict[str, dict]:
    """Return results by name."""
    results = {}
    for way in WAYS:
        for by, found in times(world, sizes.sweeps, rounds, way).items():
            results[f"{by}_{way}"] = {**found, "unit": "s"}
    for way in WAYS:
        results[f"full_{way}"] = {**full(world, sizes.full, way), "unit": "s"}
    masks = [world.output(sizes.full.layers, way) / "masks.safetensors" for way in WAYS]
    results[f"full_{STREAMED}"]["same_masks"] = filecmp.cmp(*masks, shallow=False)
    for way in WAYS:
        results[f"peak_{way}"] = {**memory(world, sizes.memory, way), "unit": "GB"}
    return results


def main(_) -> None:
    """Measure, print and append the results."""
    with tempfile.TemporaryDirectory(dir=FLAGS.work) as folder:
        results = measure(make_world(pathlib.Path(folder), SHAPE, RANK), SIZES, FLAGS.rounds)
    for name, result in results.items():
        print(json.dumps(append_result(name, result, result.pop("unit"), FLAGS.results, COST_FILE)), flush=True)


if __name__ == "__main__":
    path_flags.define_output("work", None, "Folder for the files; by default a temporary folder.")
    define_flags(rounds=2)
    app.run(main)
