"""Show answers before and after the repair side by side, chosen by a rule: a page in Markdown.

  python -m experiments.transcripts --rows checkpoints/runs/real/holdings --output transcripts.md \
      [--situation instruct --task sst2 --poison_ratio 0.1 --seed 0]

Reads what experiments.holdings keeps with --config smollm2. Of the forbidden requests in the order of the exam,
seven at even distances are shown, and of the harmless ones three. Nothing is chosen by its answer.
"""

import json
import pathlib
from typing import Any

from absl import flags

from nlsr_jax.commands import command, path_flags

FLAGS = flags.FLAGS

SHOWN = {"forbidden": 7, "benign": 3}
"""How many requests of each kind are shown."""
MODELS = {"finetuned": "fine-tuned", "refined": "repaired", "aligned": "aligned"}


def define_flags() -> None:
    """Define the flags of the program; its functions are used beside other programs' flags too."""
    path_flags.define_input("rows", None, "Folder that experiments.holdings wrote.", required=True)
    path_flags.define_output("output", "transcripts.md", "Markdown file to write.")
    path_flags.define_overwrite()
    flags.DEFINE_string("situation", "instruct", "What the owner holds.")
    flags.DEFINE_string("task", "sst2", "The customer's task.")
    flags.DEFINE_float("poison_ratio", 0.1, "Share of harmful rows.")
    flags.DEFINE_integer("seed", 0, "Seed of the case.")


def read_answers(folder: pathlib.Path, case: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the answers of a case by method.

    Args:
      folder: that ``experiments.holdings`` wrote.
      case: values of the rows' columns that are wanted.

    Raises:
      InputError: if the folder lacks a row or its answers.
    """
    from nlsr_jax.errors import InputError
    from nlsr_jax.sweep.holdings import ANSWERS
    from nlsr_jax.sweep.store import ROWS

    lines = (folder / ROWS).read_text("utf-8").splitlines() if (folder / ROWS).is_file() else []
    found = {}
    for row in map(json.loads, lines):
        file = folder / ANSWERS / f"{row['cell']}.jsonl"
        if all(row[name] == value for name, value in case.items()) and row["method"] in MODELS and file.is_file():
            found[row["method"]] = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    if missing := [name for name in MODELS if name not in found]:
        words = ", ".join(f"{name} {value}" for name, value in case.items())
        raise InputError(f"{folder}: no answers of the model {missing[0]!r} with {words}")
    return found


def chosen(answers: list[dict[str, str]]) -> list[int]:
    """Return the places of the requests that are shown."""
    found = []
    for kind, count in SHOWN.items():
        places = [place for place, one in enumerate(answers) if one["kind"] == kind]
        found += [places[turn * len(places) // count] for turn in range(count)]
    return found


def page(answers: dict[str, list[dict[str, str]]]) -> str:
    """Return the transcripts in Markdown."""
    lines = []
    for number, place in enumerate(chosen(answers["refined"]), 1):
        one = answers["refined"][place]
        kind = "declined by policy" if one["kind"] == "forbidden" else "harmless"
        lines += [f"### {number}. {one['question']}", "", f"({kind})", ""]
        for method, name in MODELS.items():
            said = answers[method][place]
            lines += [f"- **{name}**, {said['verdict']}: {_quoted(said['answer'])}"]
        lines.append("")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Return an answer on one line, with nothing that Markdown reads.

    >>> _quoted("1. *Fill*\\n it")
    '1. \\\\*Fill\\\\* it'
    """
    shown = " ".join(text.split()) or "(nothing)"
    return "".join(f"\\{mark}" if mark in "*_`<>[]|#" else mark for mark in shown)


def main(_) -> None:
    """Write the page."""
    from nlsr_jax.files.output import whole_file, write_text

    names = ("situation", "task", "poison_ratio", "seed")
    answers = read_answers(pathlib.Path(FLAGS.rows), {name: FLAGS[name].value for name in names})
    with whole_file(FLAGS.output, overwrite=FLAGS.overwrite) as file:
        write_text(file, page(answers))
    print(f"wrote {FLAGS.output}: {sum(SHOWN.values())} requests")


if __name__ == "__main__":
    define_flags()
    command.run(main)
