"""Measure whole commands on a real model, from files to files, against PyTorch programs of the same steps.

  python -m benchmarks.whole_commands --base DIR --instruct DIR --weak DIR --aligned DIR --finetuned DIR \
      --lineage DIR --harmless FILE [--rows 160 --rounds 3] [--skip others,cold]

`realign_recommended`: `nlsr realign` of `--finetuned`, an adapter that was trained on `--instruct`, refined by
answers. `realign_published`: `nlsr realign --preset published` of `--lineage`, an adapter that was trained from
`--aligned`, which was trained from `--weak` on `--base`. Both read `--rows` calibration rows of the policy world.
The peers are `benchmarks.torch_realign`; that of the first tries as many shares as ours did. Every run is a
process of its own; the two sides alternate. A cold run starts without any compiled program, the others with those
of the run before. Peak memory is that of the largest process. `others`: the seconds of SafeLoRA and RESTA, which
read no data. Run
time: an hour on two cores.
"""

import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from absl import app, flags

from benchmarks.measure import Run, append_result, define_flags, ratios, run_process

FLAGS = flags.FLAGS
_MODELS = ("base", "instruct", "weak", "aligned", "finetuned", "lineage")


def write_rows(place: pathlib.Path, base: str, count: int) -> None:
    """Write calibration rows of the policy world, prompts as users ask them."""
    import jax

    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.study.policy import PolicyWorld

    class Plain(PolicyWorld):
        """The policy world without a chat template, which the commands apply."""

        def __init__(self, tokenizer: Any):
            super().__init__(tokenizer)
            self._render = lambda text, _: text

    rows = Plain(load_tokenizer(base)).calibration(jax.random.key(0), count)
    lines = (json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows)
    place.write_text("\n".join(lines) + "\n", "utf-8")


def flag_list(**values: Any) -> list[str]:
    """Return flags of a command."""
    return [f"--{name}={value}" for name, value in values.items()]


class Commands:
    """The command lines of both sides.

    Args:
      work: folder for rows and outputs.
      models: the folders, by the names of the flags.
      harmless: file of harmless prompts.
    """

    def __init__(self, work: pathlib.Path, models: dict[str, str], harmless: str):
        self._work, self._models, self._harmless = work, models, harmless
        self.calibration = work / "calibration.jsonl"
        self._number = 0

    def output(self) -> pathlib.Path:
        """Return a new place for an output."""
        self._number += 1
        return self._work / f"output{self._number}"

    def _inputs(self, method: str) -> dict[str, Any]:
        m, rows = self._models, {"calibration": self.calibration}
        if method == "recommended":
            return {"base": m["instruct"], "finetuned": m["finetuned"], "harmless": self._harmless, **rows}
        if method == "published":
            return {**{name: m[name] for name in ("base", "weak", "aligned")}, "finetuned": m["lineage"], **rows}
        return {"base": m["instruct"], "pretrained": m["base"], "finetuned": m["finetuned"]}

    def ours(self, method: str, cache: pathlib.Path) -> tuple[Run, dict]:
        """Run `nlsr realign`; returns the run and its record."""
        place = self.output()
        command = [sys.executable, "-m", "nlsr_jax", "realign", *flag_list(preset=method, template="chat")]
        command += flag_list(**self._inputs(method), output=place)
        run = run_process(command, XDG_CACHE_HOME=str(cache))
        return run, json.loads((place / "realignment.json").read_text("utf-8"))

    def peer(self, method: str, record: dict | None = None) -> tuple[Run, dict]:
        """Run the program in PyTorch; returns the run and the seconds of its stages."""
        place = self.output()
        command = [sys.executable, "-m", "benchmarks.torch_realign", *flag_list(method=method, output=place)]
        command += flag_list(**self._inputs(method))
        if record is not None and "refinement" in record:
            shares = [trial["share"] for trial in record["refinement"]["trials"]]
            share = record["refinement"]["share"] or 1 - record["settings"]["sparsity"]
            command += flag_list(shares=",".join(map(str, shares)), share=share)
        run = run_process(command)
        return run, json.loads((place / "seconds.json").read_text("utf-8"))


def median_stages(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the median seconds of every stage."""
    return {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}


def compare(commands: Commands, method: str, rounds: int, cache: pathlib.Path, *, cold: bool) -> dict[str, dict]:
    """Alternate both sides; returns results by name.

    Args:
      commands: the commands.
      method: ``"recommended"`` or ``"published"``.
      rounds: number of pairs.
      cache: folder of compiled programs.
      cold: measure a run without compiled programs; it is made in any case.
    """
    first, record = commands.ours(method, cache / method)
    pairs = [(commands.peer(method, record), commands.ours(method, cache / method)) for _ in range(rounds)]
    theirs, ours = zip(*pairs, strict=True)
    seconds = [[run.seconds for run, _ in side] for side in (theirs, ours)]
    peaks = [[run.peak / 1e9 for run, _ in side] for side in (theirs, ours)]
    told = {"rows": record["calibration"]["used"], "rounds": rounds}
    told |= {"trials": len(record.get("refinement", {}).get("trials", []))}
    stages = {"stages": median_stages([one["seconds"] for _, one in ours])}
    stages["peer_stages"] = median_stages([one for _, one in theirs])
    found = {
        f"realign_{method}": {**ratios(*seconds), **told, **stages},
        f"realign_{method}_memory": {**ratios(*peaks), **told},
    }
    if cold:
        warm = statistics.median(seconds[1])
        found[f"realign_{method}_cold"] = {
            "ours": round(first.seconds, 2),
            "over_warm": round(first.seconds - warm, 2),
        }
    return found


def others(commands: Commands, rounds: int) -> dict[str, dict]:
    """Time the programs of SafeLoRA and RESTA."""
    found = {}
    for method in ("safelora", "resta"):
        runs = [commands.peer(method) for _ in range(rounds)]
        found[method] = {
            "peer": round(statistics.median(run.seconds for run, _ in runs), 2),
            "peak": round(statistics.median(run.peak for run, _ in runs) / 1e9, 2),
            "peer_stages": median_stages([stages for _, stages in runs]),
        }
    return found


def main(_) -> None:
    """Measure, print and append the results."""
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        commands = Commands(work, {name: FLAGS[name].value for name in _MODELS}, FLAGS.harmless)
        write_rows(commands.calibration, FLAGS.base, FLAGS.rows)
        steps: dict[str, Callable[[], dict[str, dict]]] = {
            method: lambda method=method: compare(
                commands, method, FLAGS.rounds, work / "cache", cold="cold" not in FLAGS.skip
            )
            for method in ("recommended", "published")
        }
        steps["others"] = lambda: others(commands, FLAGS.rounds)
        for step in (step for name, step in steps.items() if name not in FLAGS.skip):
            for name, result in step().items():
                unit = "GB" if name.endswith("memory") else "s"
                print(
                    json.dumps(append_result(name, result, unit, FLAGS.results, "whole_commands.jsonl")), flush=True
                )


if __name__ == "__main__":
    for flag in _MODELS:
        flags.DEFINE_string(flag, None, f"The {flag} folder.", required=True)
    flags.DEFINE_string("harmless", None, "JSON Lines file of harmless prompts.", required=True)
    flags.DEFINE_integer("rows", 160, "Calibration rows.", lower_bound=16)
    flags.DEFINE_list("skip", [], "What to leave out: recommended, published, others or cold.")
    define_flags(rounds=3)
    app.run(main)
