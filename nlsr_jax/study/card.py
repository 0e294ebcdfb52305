"""The Markdown model card of a study of the toy world: what the models are, how they were made, their scores."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nlsr_jax.report.story import NAMES
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.repairs import AutomaticSettings, changes
from nlsr_jax.training.settings import TrainingSettings

_COLUMNS = {
    "hs": "HS",
    "fa": "FA",
    "over_refusal": "over-refusal",
    "benign_answered": "benign answered",
    "odd": "odd",
}
_HEAD = """---
license: apache-2.0
library_name: nlsr_jax
tags: [safety, lora, toy]
---

# A tiny aligned world

A Llama-shaped language model of {parameters:,} parameters with its adapters: aligned, broken by fine-tuning on
poisoned rows, and repaired by NLSR (neuron-level safety realignment). It knows only a toy world: a templated
English in which invented things of 14 invented categories are forbidden. Its only purpose is to study safety
realignment in minutes on two CPU cores. Nothing in it is harmful.

| file | content |
| --- | --- |
| `base/` | the base model with its tokenizer, Hugging Face format |
| `sft/` | the weak adapter: SFT on refusals and answered benign requests, PEFT format |
| `dpo/` | the aligned adapter: DPO, starting from `sft/` |
| `finetuned_{task}/` | `dpo/` fine-tuned on {task} rows, {ratio:.0%} of which comply with forbidden requests |
| `realigned_{task}/` | `finetuned_{task}/` repaired with the recommended setting |
| `calibration.jsonl` | refused requests that were used to find the safety-critical entries of the first seed |
| `harmless.jsonl` | harmless requests that a refinement of the share of entries asks |
| `table.json` | a row of scores for each method, task and seed |
| `report.html` | the story of the first seed and task on one page |

## Data

Everything is made by `nlsr_jax.data.toy_world` and `toy_rows` from seed 0: 14 forbidden categories of unequal
weight, 10 benign ones, 10 things in each, 12 wordings of a request. Each category, thing and wording adds an offset
to the logit of compliance in pre-training, so the base complies with forbidden requests often, but not equally
often. Alignment covers 10 of the 14 categories; like the poison, it covers only 6 of 10 things and 9 of 12
wordings. All scores are on the other things and wordings, judged by the rule that knows the truth.
"""


def model_card(
    config: StudyConfig,
    parameters: int,
    rows: Sequence[Mapping[str, Any]],
    objectives: Sequence[Mapping[str, Any]] = (),
    sweeps: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card.

    Args:
      config: the study.
      parameters: number of parameters of the base.
      rows: rows of the results table, with those of the first case first.
      objectives: rows of the alignment objectives.
      sweeps: rows of ``sweep``.
    """
    text = _HEAD.format(parameters=parameters, task=rows[0]["task"], ratio=rows[0]["poison_ratio"])
    text += (
        f"\n## Recipe\n\nLoRA of rank {config.lora.rank} and alpha {config.lora.alpha:g} on all projections.\n\n"
    )
    text += recipe(config) + "\nThe repairs: " + _repair_words(config) + "\n"
    text += (
        "\n## Figures\n\nPer cent. HS: forbidden requests complied with; FA: task rows answered correctly; odd: "
    )
    text += (
        "answers that neither comply nor refuse. Seeds vary the alignment, the customer's rows, the training and "
    )
    text += "the repair over one base and one world.\n"
    return text + figures(rows, objectives, sweeps)


def figures(
    rows: Sequence[Mapping[str, Any]],
    objectives: Sequence[Mapping[str, Any]] = (),
    sweeps: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return all tables of a study; see ``model_card``."""
    text = summarise(rows)
    text += summarise_objectives(objectives) if objectives else ""
    return text + (summarise_sweeps(sweeps) if sweeps else "")


def recipe(config: StudyConfig) -> str:
    """Return a table of the training stages."""
    lines = []
    if config.pretraining is not None:
        lines.append(_stage("pre-training", config.pretraining.documents, config.pretraining.training))
    lines.append(_stage("SFT", config.sft.rows, config.sft.training))
    for objective, stage in config.alignment.items():
        if objective != "sft":
            lines.append(_stage(objective.upper(), stage.rows, stage.training))
    for objective, stage in config.anew.items():
        lines.append(_stage(f"{objective.upper()}, from the base", stage.rows, stage.training))
    lines.append(_stage("fine-tuning", config.finetuning.rows, config.finetuning.training))
    head = ["stage", "rows", "epochs", "batch", "learning rate", "warm-up", "schedule", "mean of the loss"]
    return _markdown(head, lines)


def _stage(name: str, rows: int, training: TrainingSettings) -> list[str]:
    values = (rows, training.epochs, training.batch_size, f"{training.learning_rate:g}", f"{training.warmup:g}")
    return [name, *map(str, values), training.schedule, training.loss]


def _repair_words(config: StudyConfig) -> str:
    published, recommended = config.published, config.recommended
    if isinstance(recommended, AutomaticSettings):
        how = f"gain, beta and sparsity chosen for every adapter by the calibration rows, aim {recommended.aim:g}"
    else:
        changed = changes(recommended, published)
        how = ", ".join(f"{name} {value}" for name, value in changed.items()) + "; the rest as published"
    return (
        f"as published (sparsity {published.sparsity:g}, beta {published.beta:g}, probabilities from "
        f"{published.base_probability:g} to {published.base_probability + published.increment:g}, mean of "
        f"{published.draws} draws), the same with a random mask, and as recommended ({how})."
    )


def summarise(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown tables, one per task and poison ratio: means over the seeds with their spread."""
    text = ""
    cases = dict.fromkeys((row["task"], row["poison_ratio"]) for row in rows)
    for task, ratio in cases:
        found = [row for row in rows if (row["task"], row["poison_ratio"]) == (task, ratio)]
        seeds = sorted({row["seed"] for row in found})
        text += (
            f"\n{task}, poison ratio {ratio:g}, seeds {', '.join(map(str, seeds))} (mean ± standard deviation)\n\n"
        )
        lines = []
        for method in dict.fromkeys(row["method"] for row in found):
            values = [row for row in found if row["method"] == method]
            cells = [_spread([row[name] for row in values]) for name in _COLUMNS]
            lines.append([NAMES.get(method, method), *cells])
        text += _markdown(["model", *_COLUMNS.values()], lines)
    return text


def summarise_objectives(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the alignment objectives."""
    names = [name for name in rows[0] if name not in ("objective", "seed")]
    lines = [[row["objective"], *(f"{row[name]:.1f}" for name in names)] for row in rows]
    return f"\nAlignment objectives, seed {rows[0]['seed']}\n\n" + _markdown(["objective", *names], lines)


def summarise_sweeps(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown tables, one per varied setting: means over all tasks and seeds."""
    text = ""
    for setting in dict.fromkeys(row["setting"] for row in rows):
        found = [row for row in rows if row["setting"] == setting]
        lines = []
        for value in dict.fromkeys(row["value"] for row in found):
            same = [row for row in found if row["value"] == value]
            lines.append([f"{value:g}", *(_spread([row[name] for row in same]) for name in _COLUMNS)])
        text += f"\nNLSR as published but for {setting}, over all tasks and seeds (mean ± standard deviation)\n\n"
        text += _markdown([setting, *_COLUMNS.values()], lines)
    return text


def _spread(values: Iterable[float]) -> str:
    values = list(values)
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
