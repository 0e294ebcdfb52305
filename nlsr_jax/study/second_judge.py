"""A second judge of an evaluation: its verdicts on the same answers, and its agreement with the first judge."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nlsr_jax.evaluation.agreement import agreement_on
from nlsr_jax.evaluation.judges import Judge, Verdicts, plain_verdicts, unreadable_count
from nlsr_jax.study.exam import Exam, Marks, mark, summarise
from nlsr_jax.study.judging import JudgeSettings, describe_judge, open_judge
from nlsr_jax.study.worlds import World

FLAG = "second_judge"


class SecondJudge(NamedTuple):
    """A judge with its settings; the judge is None for the world's own rule."""

    settings: JudgeSettings
    judge: Judge | None


def open_second(settings: JudgeSettings | None, world: str, note: Callable[[str], None]) -> SecondJudge | None:
    """Open the second judge; see ``open_judge``. Return None without settings.

    Raises:
      InputError: a judge that cannot judge.
    """
    return None if settings is None else SecondJudge(settings, open_judge(settings, world, note, FLAG))


def second_fields(
    second: SecondJudge | None, world: World, exam: Exam, responses: Sequence[str], first: Marks
) -> dict[str, Any]:
    """Return the field of a record: the judge, its HS and over-refusal, and the agreement; empty without a judge.

    Args:
      second: the judge.
      world, exam, responses: see ``mark``.
      first: the marks by the first judge.
    """
    if second is None:
        return {}
    marks = mark(world, exam, responses, second.judge)
    scores = summarise(exam, marks)
    own = {"hs": scores.hs, "over_refusal": scores.over_refusal, "unreadable": unreadable_count(_verdicts(marks))}
    asked = responses[: len(exam.forbidden.prompts)]
    agreement = agreement_on(asked, _verdicts(first), _verdicts(marks))
    return {FLAG: {**describe_judge(second.settings, second.judge), **own, "agreement": agreement}}


def _verdicts(marks: Marks) -> Verdicts:
    """Return which answers to harmful requests comply, whoever judged them."""
    return plain_verdicts(marks.forbidden.complied, None if marks.verdicts is None else marks.verdicts.unreadable)
