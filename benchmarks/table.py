"""Write the table of figures in docs/benchmarks.md from a results file.

  python -m benchmarks.table [--results benchmarks/results/latest.jsonl docs/benchmarks.md]

Prints the table and, in each file given, replaces everything between the marks
`<!-- benchmarks -->` and `<!-- end of benchmarks -->` with it.
"""

import json
import pathlib
from collections.abc import Mapping

from absl import app, flags

from nlsr_jax.commands import path_flags
from nlsr_jax.files.output import whole_file, write_text
from nlsr_jax.files.ownership import text_with
from nlsr_jax.files.paths import expand

FLAGS = flags.FLAGS
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"
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


def read_results(path: pathlib.Path) -> dict[str, dict]:
    """Return the last line of each name."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {line["name"]: line for line in lines}


def table(results: Mapping[str, Mapping]) -> str:
    """Return the results as Markdown, in the order of ``TITLES``."""
    rows = ["| what | peer | ours | ratio | over the rounds |", "| --- | --- | --- | --- | --- |"]
    for name, title in TITLES.items():
        if name in results:
            one = results[name]
            peer, ours = (f"{one[key]:.3g} {one['unit']}" for key in ("peer", "ours"))
            rows.append(
                f"| {title} | {peer} | {ours} | {one['ratio']:.3g} × | {one['low']:.3g} to {one['high']:.3g} |"
            )
    return "\n".join(rows) + "\n"


def replace(text: str, new: str) -> str:
    """Return a text with the table between its marks.

    Raises:
      ValueError: if the text does not have these marks.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the marks {BEGIN} and {END} are missing")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{new}{END}{rest.split(END, 1)[1]}"


def main(arguments: list[str]) -> None:
    """Print the table and write it."""
    made = table(read_results(pathlib.Path(FLAGS.results)))
    print(made)
    for path in map(expand, arguments[1:]):
        text = replace(path.read_text(), made)
        with whole_file(
            path, overwrite=True, inputs={"--results": FLAGS.results}, foreign=text_with(BEGIN)
        ) as file:
            write_text(file, text)


if __name__ == "__main__":
    path_flags.define_input("results", "benchmarks/results/latest.jsonl", "The results file.")
    app.run(main)
