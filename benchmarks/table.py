"""Write the tables of figures in docs/benchmarks.md from the results files.

  python -m benchmarks.table [--results benchmarks/results docs/benchmarks.md]

Prints the tables and, in each file given, replaces everything between the marks `<!-- NAME -->` and
`<!-- end of NAME -->` with them: `benchmarks` from latest.jsonl, and where they have been written, `fleets`
from fleet.jsonl, `cost` and `full cost` from cost.jsonl, and `whole commands` and `stages` from
whole_commands.jsonl of `make bench-real`.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping

from absl import app, flags

from nlsr_jax.commands import path_flags
from nlsr_jax.files.output import whole_file, write_text
from nlsr_jax.files.ownership import text_with
from nlsr_jax.files.paths import expand

FLAGS = flags.FLAGS
HEAD = ("what", "peer", "ours", "ratio", "over the rounds")
LIMIT_HEAD = ("limit", "share of the limit")
NAME, WHOLE_NAME, STAGES_NAME = "benchmarks", "whole commands", "stages"
FLEET_NAME, COST_NAME, FULL_NAME = "fleets", "cost", "full cost"
WHOLE_FILE, FLEET_FILE, COST_FILE = "whole_commands.jsonl", "fleet.jsonl", "cost.jsonl"
TITLES = {
    "identification": "identification of one 8B layer, 4096 positions, rank 128, against the published algorithm",
    "identification_as_run": "the same, with the rank that the paper's program keeps (102 in place of 26)",
    "masks": "its masks, against a full sort",
    "similarity": "its similarities, against full products",
    "sweep_1000": "1000 realignments of the tiny study in one program, against single calls",
    "forward": "forward pass with adapter, 4.6 M parameters, 16 × 128 tokens, against transformers and PEFT",
    "train_step": "LoRA training step of the same",
    "generation": "greedy generation of the same, 16 × (64 + 64) tokens",
    "many_adapters": "8 adapters of a base of 88 M parameters generating 4 × (32 + 16) tokens, against one pass",
    "calibration_overhead": "plain forward pass, against the calibration pass of the same batches",
    "calibration_memory": "peak memory of a calibration, against that of 16 times the tokens",
    "realign_8b_time": "reading three adapters of 8B shape and writing one (safetensors), against realigning them",
    "realign_8b_memory": "size of these three adapters, against the peak memory of realigning them",
    "realign_8b_time_bfloat16": "the same adapters in bfloat16",
    "realign_8b_memory_bfloat16": "size of these, against the peak memory of realigning them",
    "cold_start": "importing torch, transformers and PEFT, against the help of `realign`",
    "compile_depth": "compiling 4 decoder layers, against 64",
}
"""What each result compares: the peer, and ours."""
WHOLE = {
    "realign_recommended": "`nlsr realign`, refined by answers",
    "realign_recommended_memory": "its peak memory",
    "realign_published": "`nlsr realign --preset published`",
    "realign_published_memory": "its peak memory",
    "realign_recommended_bfloat16": "the refined realignment in bfloat16, on both sides",
    "realign_recommended_memory_bfloat16": "its peak memory",
    "realign_published_bfloat16": "the published one in bfloat16, on both sides",
    "realign_published_memory_bfloat16": "its peak memory",
    "train_sft": "6 steps of SFT, 8 rows each, against PEFT",
    "train_dpo": "6 steps of DPO, 4 pairs each, against TRL",
    "generation": "answers to 120 requests, 40 tokens each",
    "exam": "the same with 72 task rows, and the judge",
}
"""The same of whole_commands.jsonl."""
FLEET = {
    "fleet": "`nlsr fleet` of 64 adapters of the tiny base in one process, against single commands",
    "fleet_workers_2": "the same in two processes",
}
"""The same of fleet.jsonl."""
COST = {
    "rows": "CPU time against rows",
    "layers": "CPU time against layers",
    "rank": "CPU time against the rank",
    "peak": "peak memory against rows",
}
"""What grows with what in cost.jsonl; a name has an end of ``WAYS``."""
WAYS = {"memory": "in memory", "streamed": "streamed"}
STAGES = {
    "start": "start and imports",
    "read base model": "read base and adapters",
    "read calibration data": "read and encode rows",
    "answer": "choose the answers to restore: losses of both models; ours takes the first gradient there",
    "refine": "refine: answers, and in PyTorch the gradient of half of the rows",
    "calibrate": "calibrate: gradient of the other half, or statistics",
    "identify": "identify and compare",
    "write": "write adapter, masks, digests and report",
}
_OWN_STAGES = {
    "read adapters": "read base model",
    "apply carried tensors": "read base model",
    "amplify": "identify",
    "compare": "identify",
    "check lineage": "identify",
    "digest inputs": "write",
    "digest outputs": "write",
    "report": "write",
    "answers": "answer",
    "import": "start",
    "load": "read base model",
    "encode": "read calibration data",
}
"""Where stages of the two programs belong that are called otherwise in ``STAGES``."""
_WITHIN_REFINE = "answer"
"""A stage of ours whose seconds count for ``refine`` too."""


def read_results(path: pathlib.Path) -> dict[str, dict]:
    """Return the last line of each name."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {line["name"]: line for line in lines}


def table(results: Mapping[str, Mapping], titles: Mapping[str, str], *, limits: bool = False) -> str:
    """Return the results as Markdown, in the order of the titles, with columns for their limits if asked."""
    head = (*HEAD, *LIMIT_HEAD) if limits else HEAD
    rows: list[Iterable[str]] = [head, ["---"] * len(head)]
    for name, title in titles.items():
        if name in results:
            one = results[name]
            sides = (f"{one[key]:.3g} {one['unit']}" for key in ("peer", "ours"))
            cells = (title, *sides, f"{one['ratio']:.3g} ×", f"{one['low']:.3g} to {one['high']:.3g}")
            rows.append((*cells, *limit_cells(one)) if limits else cells)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def limit_cells(one: Mapping) -> tuple[str, str]:
    """Return the limit of a result and its share, dashes where there is none."""
    if "limit_s" not in one:
        return "–", "–"
    return f"{one['limit_s']:.3g} s: {one['limit_of']}", f"{100 * one['share']:.0f} %"


def cost(results: Mapping[str, Mapping]) -> str:
    """Return how costs grow as Markdown; a dash where a cost has no such part."""
    parts = ("clock", "statistics", "masks")
    head = ("cost", "base", "sizes", "figures", "exponent", "over the rounds", *parts, "operations")
    rows: list[Iterable[str]] = [head, ["---"] * len(head)]
    for name, title in COST.items():
        for end, way in WAYS.items():
            one = results[f"{name}_{end}"]
            sizes, costs = (", ".join(f"{value:.3g}" for value in one[key]) for key in ("sizes", "costs"))
            own = (f"{one['exponent']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}")
            found = [one["parts"][part]["exponent"] if "parts" in one else None for part in parts]
            others = ["–" if value is None else f"{value:.2f}" for value in (*found, one.get("counted"))]
            rows.append((title, way, sizes, f"{costs} {one['unit']}", *own, *others))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def full_cost(results: Mapping[str, Mapping]) -> str:
    """Return the runs over all layers as Markdown."""
    runs = [(way, results[f"full_{end}"]) for end, way in WAYS.items()]
    rows = [f"| {way} | {one['seconds']:.1f} s | {one['peak']:.3g} GB |" for way, one in runs]
    return "\n".join(["| base | time | peak memory |", "| --- | --- | --- |", *rows]) + "\n"


def stages(results: Mapping[str, Mapping]) -> str:
    """Return the median seconds of the stages of both sides as Markdown; a dash where there is no such stage."""
    methods = ("recommended", "published")
    columns = [(f"realign_{method}", side) for method in methods for side in ("peer", "ours")]
    found = []
    for name, side in columns:
        one = results.get(name, {"peer_stages": {}, "stages": {}, "peer": 0.0, "ours": 0.0})
        own = one["peer_stages" if side == "peer" else "stages"]
        sums = dict.fromkeys(STAGES, 0.0)
        for stage, seconds in own.items():
            sums[_OWN_STAGES.get(stage, stage)] += seconds
        if side == "ours":
            sums["refine"] -= own.get(_WITHIN_REFINE, 0.0)
        sums["start"] += one[side] - sum(sums.values())
        found.append(sums)
    head = [f"{method}, {side}" for method in methods for side in ("PyTorch", "ours")]
    rows = [f"| stage | {' | '.join(head)} |", "| --- | --- | --- | --- | --- |"]
    for stage, title in STAGES.items():
        cells = [f"{sums[stage]:.1f} s" if sums[stage] >= 0.05 else "–" for sums in found]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def replace(text: str, new: str, name: str = NAME) -> str:
    """Return a text with a table between its marks.

    Raises:
      ValueError: if the text does not have these marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the marks {begin} and {end} are missing")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{new}{end}{rest.split(end, 1)[1]}"


def tables(folder: pathlib.Path) -> dict[str, str]:
    """Return the tables of the results in a folder, by the names of their marks."""
    found = {NAME: table(read_results(folder / "latest.jsonl"), TITLES, limits=True)}
    if (folder / FLEET_FILE).exists():
        found[FLEET_NAME] = table(read_results(folder / FLEET_FILE), FLEET)
    if (folder / COST_FILE).exists():
        costs = read_results(folder / COST_FILE)
        found |= {COST_NAME: cost(costs), FULL_NAME: full_cost(costs)}
    if (folder / WHOLE_FILE).exists():
        whole = read_results(folder / WHOLE_FILE)
        found |= {WHOLE_NAME: table(whole, WHOLE, limits=True), STAGES_NAME: stages(whole)}
    return found


def main(arguments: list[str]) -> None:
    """Print the tables and write them."""
    made = tables(expand(FLAGS.results))
    print("\n".join(made.values()))
    for path in map(expand, arguments[1:]):
        text = path.read_text()
        for name, new in made.items():
            text = replace(text, new, name)
        foreign = text_with(f"<!-- {NAME} -->")
        with whole_file(path, overwrite=True, inputs={"--results": FLAGS.results}, foreign=foreign) as file:
            write_text(file, text)


if __name__ == "__main__":
    path_flags.define_input("results", "benchmarks/results", "Folder of the results files.")
    app.run(main)
