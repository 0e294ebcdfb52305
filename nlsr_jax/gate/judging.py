"""Who judges a check: the one place where a judge is chosen."""

from collections.abc import Callable

from nlsr_jax import configs
from nlsr_jax.evaluation.judges import Judge
from nlsr_jax.evaluation.own_judge import AnswerJudge, is_own
from nlsr_jax.gate.settings import CheckSettings
from nlsr_jax.study.judging import RULES, JudgeSettings, check_judge, open_judge


def world_kind(settings: CheckSettings) -> str:
    """Return the kind of world whose rule tells answers from refusals: the config's, else by the judge."""
    if settings.config is not None:
        return configs.get(settings.config).world
    return "policy" if settings.judge == RULES["policy"] else "real"


def judge_settings(settings: CheckSettings) -> JudgeSettings:
    """Return the judge that is asked for, by default the rule of the world.

    Raises:
      InputError: a judge that is unknown or does not fit, or that lacks its model.
    """
    kind = world_kind(settings)
    name = RULES[kind] if settings.judge is None else settings.judge
    found = JudgeSettings(name, settings.judge_model, settings.judge_template, settings.dtype)
    check_judge(found, kind)
    return found


def name_of(judge: str) -> str:
    """Return a judge's name without the folders of a file of the user's."""
    return judge.rpartition("/")[2] if is_own(judge) else judge


def choose_judge(settings: CheckSettings, note: Callable[[str], None]) -> tuple[str, Judge | None]:
    """Return the name of the judge and the judge; None for a rule that the world itself judges by.

    Args:
      settings: of the check.
      note: called with one line about each peculiarity of a judge model's files.

    Raises:
      InputError: see ``judge_settings``, or a model, tokenizer or template that cannot judge.
    """
    found = judge_settings(settings)
    return name_of(found.name), open_judge(found, world_kind(settings), note)


def digest_of(judge: Judge | None) -> dict[str, dict[str, str]]:
    """Return the digest of a judge of the user's, as ``{"judge": {name: SHA-256}}``; empty for others."""
    if not isinstance(judge, AnswerJudge) or judge.digest is None:
        return {}
    return {"judge": {name_of(judge.name): judge.digest}}
