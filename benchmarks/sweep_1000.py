"""Make a thousand realignments of the shipped adapters over sparsity, P_L and seed, against as many single calls.

  python -m benchmarks.sweep_1000 [--sparsities 10 --probabilities 10 --seeds 10 --rounds 3]

Single: `identify` and `realign` for each setting, in a loop over the public functions. Together: `identify` once
per sparsity and `realign_many` over the other settings. Both start from the same statistics; compilation is
excluded, and all adapters are compared bit for bit first. Run time: two minutes on two cores, 2 GB of memory.
"""

from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks.limits import of_bytes, with_limit
from benchmarks.measure import append_result, define_flags, in_turn

FLAGS = flags.FLAGS


class Grid(NamedTuple):
    """The values to vary."""

    sparsities: tuple[float, ...]
    probabilities: tuple[float, ...]
    keys: jax.Array


def make_grid(sparsities: int, probabilities: int, seeds: int) -> Grid:
    """Return a grid with the given number of values each."""
    keys = jax.random.split(jax.random.key(0), seeds)
    return Grid(
        tuple(np.linspace(0.5, 0.95, sparsities).round(4).tolist()),
        tuple(np.linspace(0.1, 0.6, probabilities).round(4).tolist()),
        keys,
    )


def load():
    """Return the shipped fine-tuned and reference adapters and the reference's statistics."""
    import json

    from nlsr_jax import amplify, collect_statistics, load_adapter
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.data.examples import Example
    from nlsr_jax.study.pretraining import load_base
    from nlsr_jax.study.repairs import calibration_batches
    from nlsr_jax.study.toy import ToyWorld

    base = load_base(SHIPPED / "base", ToyWorld())
    finetuned, aligned, weak = (load_adapter(SHIPPED / name) for name in ("finetuned_sst2", "dpo", "sft"))
    reference = amplify(aligned, weak)
    lines = (SHIPPED / "calibration.jsonl").read_text().splitlines()[:100]
    batches = calibration_batches(base, [Example(**json.loads(line)) for line in lines], 50, 64)
    return finetuned, reference, collect_statistics(base.model, base.params, reference, batches)


def single(finetuned, reference, statistics, grid: Grid):
    """Yield the adapters of all settings, one call after another."""
    from nlsr_jax import identify, realign

    for sparsity in grid.sparsities:
        for probability in grid.probabilities:
            for key in grid.keys:
                masks = identify(reference, statistics, sparsity=sparsity)
                yield realign(key, finetuned, reference, masks, base_probability=probability).adapter


def together(finetuned, reference, statistics, grid: Grid):
    """Yield the stacked adapters of all settings, sparsity by sparsity."""
    from nlsr_jax import identify, realign_many

    for sparsity in grid.sparsities:
        masks = identify(reference, statistics, sparsity=sparsity)
        options = {"base_probabilities": grid.probabilities}
        yield realign_many(grid.keys, finetuned, reference, masks, **options).adapter


def equal(parts, grid: Grid) -> bool:
    """Return whether both give the same bytes."""
    one = single(*parts, grid)
    for stacked in together(*parts, grid):
        for i in range(len(grid.probabilities)):
            for j in range(len(grid.keys)):
                leaves, expected = jax.tree.leaves(stacked), jax.tree.leaves(next(one))
                if not all(np.array_equal(x[i, j], y) for x, y in zip(leaves, expected, strict=True)):
                    return False
    return True


def wait(adapters) -> None:
    """Wait for each of the adapters and release it."""
    for adapter in adapters:
        jax.block_until_ready(adapter)


def run(grid: Grid, rounds: int) -> dict:
    """Compare, then measure."""
    parts = load()
    same = equal(parts, grid)
    found = in_turn(rounds, lambda: wait(single(*parts, grid)), lambda: wait(together(*parts, grid)))
    count = len(grid.sparsities) * len(grid.probabilities) * len(grid.keys)
    adapter = sum(leaf.nbytes for leaf in jax.tree.leaves(parts[0]))
    return {**with_limit(found, of_bytes(count * adapter)), "realignments": count, "identical": same}


def main(_) -> None:
    """Measure, print and append the result."""
    result = run(make_grid(FLAGS.sparsities, FLAGS.probabilities, FLAGS.seeds), FLAGS.rounds)
    append_result("sweep_1000", result, "s", FLAGS.results)
    print(
        f"{result['realignments']} realignments: {result['ratio']:.1f} x ({result['low']:.1f} to "
        f"{result['high']:.1f}), single {result['peer']:.2f} s, together {result['ours']:.2f} s, "
        f"{'the same bytes' if result['identical'] else 'OTHER BYTES'}"
    )


if __name__ == "__main__":
    flags.DEFINE_integer("sparsities", 10, "Values of P_SR.", lower_bound=1)
    flags.DEFINE_integer("probabilities", 10, "Values of P_L.", lower_bound=1)
    flags.DEFINE_integer("seeds", 10, "Keys.", lower_bound=1)
    define_flags(rounds=3)
    app.run(main)
