"""Judges by name: rules, models, and judges of the user's."""

import dataclasses
from collections.abc import Callable
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import Judge
from nlsr_jax.evaluation.own_judge import AnswerJudge, as_judge, is_own
from nlsr_jax.evaluation.refusals import BUILTIN, builtin
from nlsr_jax.models.load import warn
from nlsr_jax.study.model_judges import MODELS, WITH_TEMPLATE, WITHOUT_OWN, ModelJudge

RULES = {"toy": "toy", "policy": "policy", "real": "refusals"}
"""The rule that judges each world without a model."""
_REASONS = {"toy": "knows only the toy world", "policy": "knows only the policy world"} | dict.fromkeys(
    BUILTIN, "looks for wordings that the {world} world lacks"
)
_WORDED = ("policy", "real")
"""Worlds whose refusals are in natural language, so that lists of wordings know them."""
JUDGES = ("toy", "policy", *BUILTIN, *MODELS)
OWN = "a file of phrases (.txt, .json) or a function (module:function, file.py:function)"


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """The judge that decides which answers are harmful.

    Attributes:
      name: one of ``JUDGES``, or a judge of the user's: a file of phrases or the name of a function.
      model: Hugging Face directory or hub id of a judge model; None for a rule.
      template: file with the question for the judges ``harmbench`` and ``strongreject``; see ``read_question``.
      dtype: dtype of the judge model's weights.
    """

    name: str
    model: str | None = None
    template: str | None = None
    dtype: str = "float32"


def check_judge(settings: JudgeSettings, world: str, flag: str = "judge") -> None:
    """Check that a judge can judge a world, without opening a file.

    Args:
      settings: settings of the judge.
      world: ``"toy"``, ``"policy"`` or ``"real"``.
      flag: the flag that names it, for messages.

    Raises:
      InputError: if the judge is unknown or is the rule of the other world, or a model or template is missing or
        superfluous.
    """
    name = settings.name
    known = _judges_of(world)
    if name not in JUDGES and not is_own(name):
        raise InputError(f"--{flag} is {name!r}; expected one of {', '.join(JUDGES)}, or {OWN}")
    if name in JUDGES and name not in known:
        reason = _REASONS[name].format(world=world)
        raise InputError(f"--{flag} {name} {reason}; expected {known[0]} here, {', '.join(known[1:])}, or {OWN}")
    for part, value, needed, used in (
        ("model", settings.model, name in MODELS, name in MODELS),
        ("template", settings.template, name in WITHOUT_OWN, name in WITH_TEMPLATE),
    ):
        if needed and not value:
            raise InputError(f"--{flag} {name} needs --{flag}_{part}; it is missing")
        if value and not used:
            raise InputError(f"--{flag} {name} does not use --{flag}_{part} {value}; remove it")


def _judges_of(world: str) -> tuple[str, ...]:
    """Return the names of the judges that can judge a world."""
    return tuple(dict.fromkeys((RULES[world], *(BUILTIN if world in _WORDED else ()), *MODELS)))


def open_judge(
    settings: JudgeSettings, world: str, note: Callable[[str], None] = warn, flag: str = "judge"
) -> Judge | None:
    """Return a judge with its files checked but its weights not loaded yet.

    Args:
      settings: settings of the judge.
      world: ``"toy"``, ``"policy"`` or ``"real"``.
      note: called with one line about each peculiarity of a judge model's files; see ``load_model``.
      flag: see ``check_judge``.

    Returns:
      The judge; an ``AnswerJudge`` decides on refusals of harmless requests too. None for a world's own rule.

    Raises:
      InputError: as in ``check_judge``, or if a model, tokenizer or template cannot judge.
    """
    check_judge(settings, world, flag)
    if settings.name in MODELS:
        return ModelJudge(settings.name, str(settings.model), settings.template, settings.dtype, note)
    if settings.name in BUILTIN:
        return as_judge(builtin(settings.name))
    return as_judge(settings.name) if is_own(settings.name) else None


def describe_judge(settings: JudgeSettings, judge: Judge | None) -> dict[str, Any]:
    """Return a judge for a record: its name and model, and the digest of a file of the user's."""
    digest = judge.digest if isinstance(judge, AnswerJudge) else None
    return {"judge": settings.name, "judge_model": settings.model, **({"judge_sha256": digest} if digest else {})}
