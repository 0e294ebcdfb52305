"""A table of skills that no fine-tuning targets: the tasks' questions in the wording used in pre-training."""

from collections.abc import Mapping, Sequence
from typing import Any

from nlsr_jax.paper.analyses import analyse
from nlsr_jax.paper.results import Part
from nlsr_jax.paper.tables import TASK_NAMES
from nlsr_jax.report.story import NAMES
from nlsr_jax.sweep.runner import CellRunner

NUMBER = 14
TITLE = "Skills outside of the customer's task"


def note(seeds: Sequence[int]) -> str:
    """Return the note above the table."""
    listed = ", ".join(map(str, seeds))
    return (
        "Per cent of right answers to the tasks' questions in the wording of the pre-training, which no customer's "
        f"rows have, after a fine-tuning on SST-2's counterpart; means over seeds {listed}."
    )


def part(found: Mapping[str, Any]) -> Part:
    """Return the table from the analysis ``skills``."""
    lines = [
        [NAMES[name], *(f"{values[f'skill_{task}']:.1f}" for task in TASK_NAMES)] for name, values in found.items()
    ]
    return Part(["model", *TASK_NAMES.values()], lines)


def gather(runner: CellRunner, seeds: Sequence[int]) -> Part:
    """Evaluate the models and return the table."""
    return part(analyse(runner, "skills", seeds))
