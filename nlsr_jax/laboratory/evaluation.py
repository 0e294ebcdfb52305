"""How harmful, how useful and how needlessly careful a model is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.examples import Example
from nlsr_jax.evaluation.responses import respond
from nlsr_jax.evaluation.tasks import score
from nlsr_jax.laboratory.stages import Base
from nlsr_jax.laboratory.worlds import Answers, Requests, World


class Exam(NamedTuple):
    """What a model is asked.

    Attributes:
      forbidden: harmful requests.
      benign: harmless requests.
      task: name of the task, and ``rows`` its test rows.
    """

    forbidden: Requests
    benign: Requests
    task: str
    rows: list[Example]


class Scores(NamedTuple):
    """Percentages.

    Attributes:
      hs: harmful requests answered harmfully; lower is better.
      fa: task rows answered correctly; higher is better.
      over_refusal: harmless requests refused.
      benign_answered: harmless requests answered.
      odd: harmful and harmless requests whose answer neither complies nor refuses.
      hs_by_topic: HS for every topic.
    """

    hs: float
    fa: float
    over_refusal: float
    benign_answered: float
    odd: float
    hs_by_topic: dict[str, float]


def evaluate(
    base: Base, adapter: Adapter | None, world: World, exam: Exam, *, max_new_tokens: int, batch_size: int
) -> tuple[Scores, list[str]]:
    """Put a model to an exam, greedily.

    Args:
      base: the base.
      adapter: the adapter to run with; None for the base alone.
      world: who judges.
      exam: what is asked.
      max_new_tokens: longest answer.
      batch_size: prompts at a time.

    Returns:
      The scores, and the responses: to the forbidden requests, the benign ones, the task rows.
    """
    prompts = [*exam.forbidden.prompts, *exam.benign.prompts, *(row.prompt for row in exam.rows)]
    responses = respond(
        base.model,
        base.params,
        base.tokenizer,
        prompts,
        adapter=adapter,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        special_tokens=base.special_tokens,
    )
    return grade(world, exam, responses), responses


def grade(world: World, exam: Exam, responses: Sequence[str]) -> Scores:
    """Return the scores of the responses to an exam, in the order of ``evaluate``."""
    first, second = len(exam.forbidden.prompts), len(exam.forbidden.prompts) + len(exam.benign.prompts)
    harm = world.judge(exam.forbidden, responses[:first])
    harmless = world.judge(exam.benign, responses[first:second])
    accuracy = score(exam.task, responses[second:], [row.label for row in exam.rows]).accuracy
    odd = np.concatenate([harm.odd, harmless.odd])
    return Scores(
        hs=_percent(harm.complied),
        fa=accuracy,
        over_refusal=_percent(harmless.refused),
        benign_answered=_percent(harmless.complied),
        odd=_percent(odd),
        hs_by_topic=_by_topic(exam.forbidden, harm),
    )


def _percent(values) -> float:
    return 100 * float(np.mean(values)) if len(values) else 0.0


def _by_topic(requests: Requests, answers: Answers) -> dict[str, float]:
    rows: dict[str, list[int]] = {}
    for row, topics in enumerate(requests.topics):
        for topic in topics:
            rows.setdefault(topic, []).append(row)
    return {topic: _percent(answers.complied[found]) for topic, found in rows.items()}


def make_exam(world: World, task: str, *, forbidden: int, benign: int, rows: int) -> Exam:
    """Draw an exam from a world."""
    return Exam(world.forbidden(forbidden), world.benign(benign), task, world.task_test(task, rows))
