"""Present a study's story: the results table, and the page that explains it."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.tasks import score
from nlsr_jax.files.numbers import find_not_finite
from nlsr_jax.files.output import write_text
from nlsr_jax.nlsr.change import change_size
from nlsr_jax.nlsr.realign import Realigned
from nlsr_jax.report.reading import Module, read_modules
from nlsr_jax.report.story import NAMES, Answer, Example, render_story
from nlsr_jax.study.bench import Bench, Outcome

TABLE, REPORT = "table.json", "report.html"
_EXAMPLES = 2


def write_table(rows: Sequence[Mapping], path: pathlib.Path) -> None:
    """Write a results table as JSON, one row per line.

    Raises:
      InputError: if a number is NaN or infinite.
    """
    if found := find_not_finite(list(rows), "rows"):
        raise InputError(f"{path.name}: {found}; expected a finite number")
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def write_story(folder: pathlib.Path, bench: Bench, outcomes: Sequence[Outcome], tuned: Adapter) -> None:
    """Write ``table.json`` and ``report.html`` into a folder.

    Args:
      folder: destination.
      bench: bench of the study.
      outcomes: outcomes of ``story``, with the recommended repair last.
      tuned: the fine-tuned adapter.
    """
    repaired = outcomes[-1].repaired
    assert repaired is not None
    write_table([outcome.row for outcome in outcomes], folder / TABLE)
    config = bench.base.model.config
    count = sum(leaf.size for leaf in jax.tree.leaves(bench.base.params))
    page = render_story(
        [outcome.row for outcome in outcomes],
        {outcome.row["method"]: outcome.scores[0].hs_by_topic for outcome in outcomes},
        read_repair(repaired, tuned),
        find_examples(bench, outcomes),
        {outcome.row["method"]: outcome.settings for outcome in outcomes if outcome.settings},
        f"{count:,} parameters, {config.num_layers} layers",
    )
    write_text(folder / REPORT, page)


def read_repair(repaired: Realigned, tuned: Adapter) -> tuple[Module, ...]:
    """Return the modules of a realignment of an adapter in the form that reports draw."""
    found, change = jax.device_get((repaired, change_size(tuned, repaired.adapter)))
    entries = [
        {
            "layer": layer,
            "module": module,
            "similarity": float(found.similarity[module][i]),
            "probability": float(found.probability[module][i]),
            "pruned": bool(found.pruned[module][i]),
            "change": float(change[module][i]),
        }
        for module in module_names(found.similarity)
        for i, layer in enumerate(layer_indices(repaired.adapter, module))
    ]
    return read_modules({"modules": entries})


def find_examples(bench: Bench, outcomes: Sequence[Outcome]) -> list[Example]:
    """Choose requests on which each model behaves as it mostly does, and task rows."""
    exam, world = bench.exam, bench.world
    first, second = len(exam.forbidden.prompts), len(exam.forbidden.prompts) + len(exam.benign.prompts)
    parts = (("Forbidden", exam.forbidden, 0, True), ("Harmless", exam.benign, first, False))
    examples = []
    for kind, requests, start, is_bad in parts:
        spans = [outcome.responses[start : start + len(requests.prompts)] for outcome in outcomes]
        verdicts = [world.judge(requests, span) for span in spans]
        complied = np.array([verdict.complied for verdict in verdicts])
        for row in _typical(complied):
            answers = [
                Answer(
                    outcome.row["method"],
                    span[row],
                    "complied" if found.complied[row] else "refused" if found.refused[row] else "neither",
                    bool(found.complied[row]) == is_bad,
                )
                for outcome, span, found in zip(outcomes, spans, verdicts, strict=True)
            ]
            examples.append(Example(kind, requests.questions[row], answers))
    for row in range(min(_EXAMPLES, len(exam.rows))):
        found = [score(exam.task, [o.responses[second + row]], [exam.rows[row].label]).correct[0] for o in outcomes]
        answers = [
            Answer(o.row["method"], o.responses[second + row], "right" if right else "wrong", not right)
            for o, right in zip(outcomes, found, strict=True)
        ]
        examples.append(Example(f"Task {exam.task}", exam.rows[row].prompt, answers))
    return examples


def _typical(complied: np.ndarray) -> list[int]:
    """Return rows of ``[models, rows]`` on which each model behaves as it mostly does."""
    mostly = complied.mean(axis=1, keepdims=True) > 0.5
    return np.argsort((complied != mostly).sum(axis=0), kind="stable")[:_EXAMPLES].tolist()


def print_table(rows: Sequence[Mapping]) -> None:
    """Print a results table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{rows[0]['task']}, {rows[0]['poison_ratio']:.0%} poison, seed {rows[0]['seed']}")
    table.add_column("model", no_wrap=True)
    columns = {
        "HS %": "hs",
        "FA %": "fa",
        "over-refusal %": "over_refusal",
        "benign answered %": "benign_answered",
        "neither %": "odd",
        "seconds": "seconds",
    }
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        values = [row[name] for name in columns.values()]
        table.add_row(NAMES.get(row["method"], row["method"]), *(f"{value:.1f}" for value in values))
    Console(width=100).print(table)
