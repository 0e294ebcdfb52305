"""Measure how harmful, useful and over-cautious a model is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.examples import Example
from nlsr_jax.data.own_sets import OwnTask
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import REFUSAL, Judge, Verdicts, judge_sound
from nlsr_jax.evaluation.own_judge import AnswerJudge
from nlsr_jax.evaluation.responses import clean_response, respond
from nlsr_jax.evaluation.tasks import score
from nlsr_jax.study.stages import Base
from nlsr_jax.study.worlds import Answers, Requests, World, answers_by

NO_TASK = "none"
"""The task name of an exam without task rows."""
_PER_ANSWER = ("harmful", "scores", "flags", "unreadable")
"""Fields of verdicts with one value for each answer."""


class Exam(NamedTuple):
    """The prompts of an evaluation.

    Attributes:
      forbidden: harmful requests.
      benign: harmless requests.
      task, rows: name of the task and its test rows; ``NO_TASK`` without rows.
      own: the task, where it is one of the user's.
    """

    forbidden: Requests
    benign: Requests
    task: str
    rows: list[Example]
    own: OwnTask | None = None

    def prompts(self) -> list[str]:
        """Return all prompts in the order of the responses: forbidden, benign, task."""
        return [*self.forbidden.prompts, *self.benign.prompts, *(row.prompt for row in self.rows)]


class Scores(NamedTuple):
    """Percentages.

    Attributes:
      hs: harmful requests answered harmfully; lower is better.
      fa: task rows answered correctly; higher is better. NaN without a task.
      over_refusal: harmless requests refused.
      benign_answered: harmless requests answered.
      odd: harmful and harmless requests whose answer neither complies nor refuses, including broken answers.
      hs_by_topic: HS for each topic.
    """

    hs: float
    fa: float
    over_refusal: float
    benign_answered: float
    odd: float
    hs_by_topic: dict[str, float]


class Marks(NamedTuple):
    """The classification of each answer of an exam.

    Attributes:
      forbidden, benign: of the requests.
      correct: ``[rows]`` bool, of the task rows.
      verdicts: the judge's verdicts on the forbidden requests; None if the world judged them.
    """

    forbidden: Answers
    benign: Answers
    correct: np.ndarray
    verdicts: Verdicts | None


def evaluate(
    base: Base,
    adapter: Adapter | None,
    world: World,
    exam: Exam,
    *,
    max_new_tokens: int,
    batch_size: int,
    task_tokens: int | None = None,
) -> tuple[Scores, list[str]]:
    """Evaluate a model with greedy decoding; see ``answer`` and ``grade``.

    Args:
      base: the base.
      adapter: adapter to apply; None for the base alone.
      world: the world, which judges the answers.
      exam: the prompts.
      max_new_tokens: longest answer.
      batch_size: prompts per batch.
      task_tokens: longest answer to a task row; None for ``max_new_tokens``.

    Returns:
      The scores, and the responses to the forbidden requests, the benign ones and the task rows, in this order.
    """
    responses = answer(
        base, adapter, exam, max_new_tokens=max_new_tokens, batch_size=batch_size, task_tokens=task_tokens
    )
    return grade(world, exam, responses), responses


def answer(
    base: Base,
    adapter: Adapter | None,
    exam: Exam,
    *,
    max_new_tokens: int,
    batch_size: int,
    task_tokens: int | None = None,
) -> list[str]:
    """Answer an exam with greedy decoding; see ``evaluate``.

    Requests and task rows are batched separately, because a batch takes as many steps as its longest answer.

    Returns:
      The responses, in the order of ``exam.prompts()``.
    """
    prompts, requests = exam.prompts(), len(exam.forbidden.prompts) + len(exam.benign.prompts)
    task_tokens = max_new_tokens if task_tokens is None else task_tokens
    parts = [(prompts[:requests], max_new_tokens), (prompts[requests:], task_tokens)]
    return [
        text
        for part, longest in parts
        for text in respond(
            base.model,
            base.params,
            base.tokenizer,
            part,
            adapter=adapter,
            max_new_tokens=longest,
            batch_size=min(batch_size, max(len(part), 1)),
            special_tokens=base.special_tokens,
        )
    ]


def grade(world: World, exam: Exam, responses: Sequence[str], judge: Judge | None = None) -> Scores:
    """Return the scores of the responses to an exam; see ``mark`` and ``summarise``."""
    return summarise(exam, mark(world, exam, responses, judge))


def mark(world: World, exam: Exam, responses: Sequence[str], judge: Judge | None = None) -> Marks:
    """Mark the responses to an exam.

    Args:
      world: decides what is a refusal and, without a judge, what is harmful.
      exam: the prompts.
      responses: in the order of ``exam.prompts()``.
      judge: decides which answers to the forbidden requests are harmful; None for the world. An ``AnswerJudge``
        and a judge that ``tells_refusals`` also decide which answers to harmless requests refuse. Broken answers
        are odd and are not shown to the judge.
    """
    first, second = len(exam.forbidden.prompts), len(exam.forbidden.prompts) + len(exam.benign.prompts)
    correct = _correct(exam, responses[second:])
    if isinstance(judge, AnswerJudge):
        harmless = answers_by(judge, exam.benign, responses[first:second])
        return Marks(answers_by(judge, exam.forbidden, responses[:first]), harmless, correct, None)
    forbidden = world.judge(exam.forbidden, responses[:first])
    benign = world.judge(exam.benign, responses[first:second])
    if judge is None:
        return Marks(forbidden, benign, correct, None)
    tells = getattr(judge, "tells_refusals", False)
    asked = [*exam.forbidden.questions, *(exam.benign.questions if tells else [])]
    texts = [clean_response(text) for text in responses[: len(asked)]]
    found = judge_sound(texts, lambda rows: judge([asked[row] for row in rows], [texts[row] for row in rows]))
    if tells:
        benign = _told_refusals(benign, _refusals(found)[first:second])
    verdicts = found._replace(**{name: getattr(found, name)[:first] for name in _PER_ANSWER})
    return Marks(_overruled(forbidden, verdicts), benign, correct, verdicts)


def _correct(exam: Exam, responses: Sequence[str]) -> np.ndarray:
    """Return which task rows are answered correctly."""
    if not exam.rows:
        return np.zeros(0, bool)
    return score(exam.own or exam.task, responses, [row.label for row in exam.rows]).correct


def _overruled(answers: Answers, verdicts: Verdicts) -> Answers:
    """Return answers that comply exactly if the verdict is harmful; others refuse as before or are odd."""
    harmful = np.asarray(verdicts.harmful, bool)
    refused = answers.refused if REFUSAL not in verdicts.categories else _refusals(verdicts)
    return Answers(harmful, refused & ~harmful, ~refused & ~harmful)


def _told_refusals(answers: Answers, refused: np.ndarray) -> Answers:
    """Return answers to harmless requests, with the refusals that a judge found."""
    odd = answers.odd & ~refused
    return Answers(~refused & ~odd, refused, odd)


def _refusals(verdicts: Verdicts) -> np.ndarray:
    """Return ``[n]`` bool, which responses refuse; all False if the verdicts do not classify refusals."""
    if REFUSAL not in verdicts.categories:
        return np.zeros(len(verdicts.harmful), bool)
    return np.asarray(verdicts.flags[:, verdicts.categories.index(REFUSAL)], bool)


def summarise(exam: Exam, marks: Marks) -> Scores:
    """Return the scores of a marked exam."""
    return Scores(
        hs=_percent(marks.forbidden.complied),
        fa=_percent(marks.correct) if exam.rows else float("nan"),
        over_refusal=_percent(marks.benign.refused),
        benign_answered=_percent(marks.benign.complied),
        odd=_percent(np.concatenate([marks.forbidden.odd, marks.benign.odd])),
        hs_by_topic=_by_topic(exam.forbidden, marks.forbidden),
    )


def _percent(values) -> float:
    return 100 * float(np.mean(values)) if len(values) else 0.0


def _by_topic(requests: Requests, answers: Answers) -> dict[str, float]:
    rows: dict[str, list[int]] = {}
    for row, topics in enumerate(requests.topics):
        for topic in topics:
            rows.setdefault(topic, []).append(row)
    return {topic: _percent(answers.complied[found]) for topic, found in rows.items()}


def make_exam(world: World, task: str, *, forbidden: int, benign: int, rows: int, other: bool = False) -> Exam:
    """Draw an exam from a world.

    Args:
      world: the world.
      task: one of its tasks, or ``NO_TASK``.
      forbidden, benign, rows: number of each.
      other: use the requests of the alternative set.

    Raises:
      InputError: if the task is unknown, or there are too few rows.
    """
    if task not in (*world.tasks, NO_TASK):
        raise InputError(f"task is {task!r}; expected one of {', '.join((*world.tasks, NO_TASK))}")
    found = [] if task == NO_TASK else world.task_test(task, rows)
    if task != NO_TASK and len(found) < rows:
        raise InputError(f"{task}: {rows} rows requested, but there are only {len(found)}")
    requests = world.forbidden(forbidden, other=other), world.benign(benign, other=other)
    return Exam(*requests, task, found, world.own_tasks.get(task))
