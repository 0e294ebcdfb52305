"""Measure a fleet of adapters of the tiny base against single commands.

  python -m benchmarks.fleet [--adapters 64 --singles 8 --workers 1 --workers 2]

Customers' adapters that were trained on an instruct model are repaired with the recommended setting, each refined
by answers. `fleet`: `nlsr fleet` of all in one process, against `nlsr realign` of each. Some adapters, spread
evenly, are repaired by single commands: their median is taken for all, their fastest and slowest for the range.
Both sides have the compiled programs of an earlier run. `fleet_workers_N`: the same with N processes. Run time: ten
minutes on two cores.
"""

import json
import pathlib
import sys
import tempfile

from absl import app, flags

from benchmarks.fleet_world import World, make_world
from benchmarks.measure import append_result, define_results, ratios, run_process
from benchmarks.table import FLEET_FILE

FLAGS = flags.FLAGS


def single(world: World, number: int, folder: pathlib.Path, name: str = "single") -> float:
    """Return the seconds of one command."""
    command = [sys.executable, "-m", "nlsr_jax", "realign", "--finetuned", str(world.adapters[number])]
    output = folder / f"{name}-{number}"
    return run_process([*command, *world.flags, "--output", str(output)], XDG_CACHE_HOME=str(folder)).seconds


def fleet(world: World, folder: pathlib.Path, name: str, workers: int) -> float:
    """Return the seconds of a fleet of all adapters."""
    command = [sys.executable, "-m", "nlsr_jax", "fleet", str(world.jobs), *world.flags]
    command += ["--workers", str(workers), "--output", str(folder / name)]
    return run_process(command, XDG_CACHE_HOME=str(folder)).seconds


def measure(count: int, singles: int, workers: list[int], folder: pathlib.Path) -> dict[str, dict]:
    """Return results by name.

    Args:
      count: adapters of the fleet.
      singles: how many of them are repaired by single commands too.
      workers: numbers of processes.
      folder: for inputs and outputs.
    """
    world = make_world(folder / "world", "instruct", count)
    single(world, 0, folder, "warm")
    alone = [single(world, count * turn // singles, folder) * count for turn in range(singles)]
    results = {}
    for number in workers:
        seconds = fleet(world, folder, f"fleet-{number}", number)
        name = "fleet" if number == 1 else f"fleet_workers_{number}"
        told = {"adapters": count, "adapters_an_hour": round(3600 * count / seconds)}
        results[name] = {**ratios(alone, [seconds] * singles), **told}
    return results


def main(_) -> None:
    """Measure, print and append the results."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(FLAGS.adapters, FLAGS.singles, FLAGS.workers, pathlib.Path(folder))
    for name, result in found.items():
        print(json.dumps(append_result(name, result, "s", FLAGS.results, FLEET_FILE)), flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("adapters", 64, "Adapters of the fleet.", lower_bound=1)
    flags.DEFINE_integer("singles", 8, "Adapters that single commands repair.", lower_bound=1)
    flags.DEFINE_multi_integer("workers", [1, 2], "Number of processes; may be given several times.", lower_bound=1)
    define_results()
    app.run(main)
