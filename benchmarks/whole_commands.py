"""Measure whole commands on a real model, from files to files, against PyTorch programs of the same steps.

  python -m benchmarks.whole_commands --base DIR --models DIR --finetuned DIR --lineage DIR [--dtype bfloat16]

`--models` holds the weak adapter `sft` and the aligned one `dpo` on `--base`; the instruct model is the base with
`dpo` merged. `realign_recommended`: `nlsr realign` of `--finetuned`, an adapter that was trained on the instruct
model, its share refined by answers. `realign_published`: `nlsr realign --preset published` of `--lineage`, an
adapter that was trained from `dpo`. Both read `--rows` calibration rows of the policy world. The peers are
`benchmarks.torch_realign`; that of the first tries as many shares as ours did. Every run is a process of its own;
the two sides alternate. A cold run starts without any compiled program, the others with those of the run before.
Peak memory is that of the largest process. `others`: SafeLoRA and RESTA, which read no data. Run time: an hour on
two cores.
"""

import json
import pathlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from absl import app, flags

from benchmarks.limits import Limit, with_limit
from benchmarks.measure import Run, append_result, define_flags, ratios, run_process
from benchmarks.whole_limits import count_tokens, published_limit, refined_limit
from nlsr_jax.architecture.config import parse_model_config

FLAGS = flags.FLAGS
HARMLESS = 96
RECOVERED = "of the likelihood of refusals"
_MODELS = ("base", "models", "finetuned", "lineage")


def write_rows(folder: pathlib.Path, base: str, count: int) -> None:
    """Write calibration rows and harmless prompts of the policy world, as users ask them."""
    import jax

    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.study.policy import PolicyWorld

    class Plain(PolicyWorld):
        """The policy world without a chat template, which the commands apply."""

        def __init__(self, tokenizer: Any):
            super().__init__(tokenizer)
            self._render = lambda text, _: text

    world, key = Plain(load_tokenizer(base)), jax.random.key(0)
    for name, rows in (("calibration", world.calibration(key, count)), ("harmless", world.harmless(key, HARMLESS))):
        lines = (json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def write_instruct(folder: pathlib.Path, base: str, adapter: str) -> None:
    """Write the base with an adapter merged, with the base's tokenizer."""
    from nlsr_jax import load_adapter, load_model
    from nlsr_jax.models import save_model
    from nlsr_jax.models.lora import expand
    from nlsr_jax.models.projection import merge_adapter

    model, params = load_model(base)
    lora = expand(load_adapter(adapter, model.config), model.config.num_layers)
    save_model(model, merge_adapter(params, lora, tuple(lora["layers"]))[0], folder)
    for file in pathlib.Path(base).iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(file, folder)


def flag_list(**values: Any) -> list[str]:
    """Return flags of a command."""
    return [f"--{name}={value}" for name, value in values.items()]


class Commands:
    """The command lines of both sides.

    Args:
      work: folder with rows and the instruct model, for outputs and compiled programs.
      models: the folders, by the names of the flags.
      dtype: of the base, on both sides.
    """

    def __init__(self, work: pathlib.Path, models: dict[str, str], dtype: str):
        self._work, self._models, self._dtype = work, models, dtype
        self._number = 0

    def _output(self) -> pathlib.Path:
        self._number += 1
        return self._work / f"output{self._number}"

    def _inputs(self, method: str) -> dict[str, Any]:
        m, rows = self._models, {"calibration": self._work / "calibration.jsonl"}
        instruct = {"base": self._work / "instruct", "finetuned": m["finetuned"]}
        if method == "recommended":
            return {**instruct, "harmless": self._work / "harmless.jsonl", **rows}
        if method == "published":
            adapters = {"weak": f"{m['models']}/sft", "aligned": f"{m['models']}/dpo", "finetuned": m["lineage"]}
            return {"base": m["base"], **adapters, **rows}
        return {**instruct, "pretrained": m["base"]}

    def limit(self, method: str, trials: int, likelihoods: int) -> Limit:
        """Return the limit of a realignment."""
        base = self._work / "instruct"
        config = parse_model_config(json.loads((base / "config.json").read_text("utf-8")), str(base))
        rows = count_tokens(self._work, base)
        if method == "published":
            return published_limit(config, rows, self._dtype)
        return refined_limit(config, rows, trials, likelihoods, self._dtype)

    def ours(self, method: str) -> tuple[Run, dict]:
        """Run `nlsr realign`; returns the run and its record."""
        place = self._output()
        command = [sys.executable, "-m", "nlsr_jax", "realign", *flag_list(preset=method, template="chat")]
        command += flag_list(dtype=self._dtype)
        command += flag_list(**self._inputs(method), output=place)
        run = run_process(command, XDG_CACHE_HOME=str(self._work / f"cache_{method}"))
        return run, json.loads((place / "realignment.json").read_text("utf-8"))

    def peer(self, method: str, record: dict | None = None, likelihoods: int = 0) -> tuple[Run, dict]:
        """Run the program in PyTorch; returns the run and the seconds of its stages.

        Args:
          method: which.
          record: of ours, for the shares that were tried.
          likelihoods: how often ours measured the likelihood of refusals.
        """
        place = self._output()
        command = [sys.executable, "-m", "benchmarks.torch_realign", *flag_list(method=method, output=place)]
        command += flag_list(**self._inputs(method), dtype=self._dtype)
        if record is not None and "refinement" in record:
            shares = [trial["share"] for trial in record["refinement"]["trials"]]
            share = record["refinement"]["share"] or 1 - record["settings"]["sparsity"]
            strength = record["settings"]["strength"]
            command += flag_list(
                shares=",".join(map(str, shares)), share=share, likelihoods=likelihoods, strength=strength
            )
        run = run_process(command)
        return run, json.loads((place / "seconds.json").read_text("utf-8"))


def median_stages(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the median seconds of every stage."""
    return {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}


def compare(commands: Commands, method: str, rounds: int) -> dict[str, dict]:
    """Alternate both sides, after a cold run of ours; returns results by name.

    Args:
      commands: the commands.
      method: ``"recommended"`` or ``"published"``.
      rounds: number of pairs.
    """
    first, record = commands.ours(method)
    asked = first.printed.count(RECOVERED)
    likelihoods = asked + 2 if asked else 0  # of the fine-tuned and the aligned model, too
    pairs = [(commands.peer(method, record, likelihoods), commands.ours(method)) for _ in range(rounds)]
    theirs, ours = zip(*pairs, strict=True)
    seconds = [[run.seconds for run, _ in side] for side in (theirs, ours)]
    peaks = [[run.peak / 1e9 for run, _ in side] for side in (theirs, ours)]
    trials = len(record.get("refinement", {}).get("trials", []))
    told = {"rows": record["calibration"]["used"], "trials": trials, "likelihoods": likelihoods}
    stages = {"stages": median_stages([one["seconds"] for _, one in ours])}
    stages["peer_stages"] = median_stages([one for _, one in theirs])
    warm, whole = statistics.median(seconds[1]), {**ratios(*seconds), **told, **stages}
    whole = with_limit(whole, commands.limit(method, trials, likelihoods))
    return {
        f"realign_{method}": whole,
        f"realign_{method}_memory": {**ratios(*peaks), **told},
        f"realign_{method}_cold": {
            "ours": round(first.seconds, 2),
            "over_warm": round(first.seconds - warm, 2),
            "stages": record["seconds"],
        },
    }


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
        write_rows(work, FLAGS.base, FLAGS.rows)
        write_instruct(work / "instruct", FLAGS.base, f"{FLAGS.models}/dpo")
        commands = Commands(work, {name: FLAGS[name].value for name in _MODELS}, FLAGS.dtype)
        steps: dict[str, Callable[[], dict[str, dict]]] = {
            method: lambda method=method: compare(commands, method, FLAGS.rounds)
            for method in ("recommended", "published")
        }
        if FLAGS.dtype == "float32":  # the programs of the others read no other type
            steps["others"] = lambda: others(commands, FLAGS.rounds)
        for step in (step for name, step in steps.items() if name not in FLAGS.skip):
            for name, result in step().items():
                unit = "GB" if name.endswith("memory") else "s"
                name += "" if FLAGS.dtype == "float32" else f"_{FLAGS.dtype}"
                line = append_result(name, result, unit, FLAGS.results, "whole_commands.jsonl")
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    for flag in _MODELS:
        flags.DEFINE_string(flag, None, f"The {flag} folder.", required=True)
    flags.DEFINE_integer("rows", 160, "Calibration rows.", lower_bound=16)
    flags.DEFINE_list("skip", [], "What to leave out: recommended, published or others.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the base; other results end in it.")
    define_flags(rounds=3)
    app.run(main)
