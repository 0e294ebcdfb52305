"""The judges of a check."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from nlsr_jax.evaluation.judges import Judge
from nlsr_jax.evaluation.own_judge import AnswerJudge, is_own
from nlsr_jax.gate.config import study_of
from nlsr_jax.gate.settings import CheckSettings
from nlsr_jax.study.judging import RULES, JudgeSettings, check_judge, open_judge

FIRST, SECOND = "judge", "second_judge"
"""Settings that name the judges."""


class Named(NamedTuple):
    """A judge with its name; None for a rule that the world itself judges by."""

    name: str
    judge: Judge | None


def world_kind(settings: CheckSettings) -> str:
    """Return the kind of world whose rule tells answers from refusals: the config's, else by the judge."""
    study = study_of(settings)
    if study is not None:
        return study.config.world
    return "policy" if settings.judge == RULES["policy"] else "real"


def judge_settings(settings: CheckSettings) -> dict[str, JudgeSettings]:
    """Return the settings of the judges, by ``FIRST`` and ``SECOND``.

    The first judge is by default that of the config's file, else the rule of the world. A second one is optional.

    Raises:
      InputError: a judge that is unknown or does not fit, or that lacks its model.
    """
    study, kind = study_of(settings), world_kind(settings)
    kept: Mapping[str, str] = {} if study is None or settings.judge else study.judge
    chosen = {
        FIRST: (
            settings.judge or kept.get("name") or RULES[kind],
            settings.judge_model or kept.get("model"),
            settings.judge_template or kept.get("template"),
        )
    }
    if settings.second_judge is not None:
        chosen[SECOND] = (settings.second_judge, settings.second_judge_model, settings.second_judge_template)
    found = {flag: JudgeSettings(*one, settings.dtype) for flag, one in chosen.items()}
    for flag, one in found.items():
        check_judge(one, kind, flag)
    return found


def name_of(judge: str) -> str:
    """Return a judge's name without the folders of a file of the user's."""
    return judge.rpartition("/")[2] if is_own(judge) else judge


def choose_judges(settings: CheckSettings, note: Callable[[str], None]) -> dict[str, Named]:
    """Return the judges of a check, by ``FIRST`` and ``SECOND``.

    Args:
      settings: of the check.
      note: called with one line about each peculiarity of a judge model's files.

    Raises:
      InputError: see ``judge_settings``, or a model, tokenizer or template that cannot judge.
    """
    kind = world_kind(settings)
    found = judge_settings(settings).items()
    return {flag: Named(name_of(one.name), open_judge(one, kind, note, flag)) for flag, one in found}


def digest_of(judges: Mapping[str, Named]) -> dict[str, dict[str, str]]:
    """Return the digests of the user's own judges, as ``{"judge": {name: SHA-256}}``."""
    own = {flag: one.judge for flag, one in judges.items() if isinstance(one.judge, AnswerJudge)}
    return {flag: {name_of(one.name): one.digest} for flag, one in own.items() if one.digest is not None}
