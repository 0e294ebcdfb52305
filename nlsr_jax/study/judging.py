"""Judges by name. A judge model is loaded when it judges, and released afterwards.

It is therefore never in memory together with the model that it judges. Its files are checked in advance.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import check_pairs
from nlsr_jax.evaluation.guard import check_guard_tokenizer, guard
from nlsr_jax.evaluation.harmbench import classify_harm, read_template
from nlsr_jax.evaluation.judges import Judge, Verdicts, judge_sound
from nlsr_jax.evaluation.moderation import category_columns, check_moderation_tokenizer, moderate
from nlsr_jax.evaluation.own_judge import AnswerJudge, as_judge, is_own
from nlsr_jax.evaluation.refusals import BUILTIN, builtin
from nlsr_jax.formats.hugging_face import check_weights, read_config, resolve
from nlsr_jax.models.classifier import load_classifier, open_classifier
from nlsr_jax.models.load import load_model, warn

RULES = {"toy": "toy", "policy": "policy", "real": "refusals"}
"""The rule that judges each world without a model."""
_REASONS = {"toy": "knows only the toy world", "policy": "knows only the policy world"} | dict.fromkeys(
    BUILTIN, "looks for wordings that the {world} world lacks"
)
_WORDED = ("policy", "real")
"""Worlds whose refusals are in natural language, so that lists of wordings know them."""
MODELS = ("qa_moderation", "guard", "harmbench")
JUDGES = ("toy", "policy", *BUILTIN, *MODELS)
OWN = "a file of phrases (.txt, .json) or a function (module:function, file.py:function)"


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """The judge that decides which answers are harmful.

    Attributes:
      name: one of ``JUDGES``, or a judge of the user's: a file of phrases or the name of a function.
      model: Hugging Face directory or hub id of a judge model; None for a rule.
      template: file with the question for the judge ``harmbench``; see ``read_template``.
      dtype: dtype of the judge model's weights.
    """

    name: str
    model: str | None = None
    template: str | None = None
    dtype: str = "float32"


def check_judge(settings: JudgeSettings, world: str) -> None:
    """Check that a judge can judge a world, without opening a file.

    Args:
      settings: settings of the judge.
      world: ``"toy"``, ``"policy"`` or ``"real"``.

    Raises:
      InputError: if the judge is unknown or is the rule of the other world, or a model or template is missing or
        superfluous.
    """
    name = settings.name
    known = _judges_of(world)
    if name not in JUDGES and not is_own(name):
        raise InputError(f"--judge is {name!r}; expected one of {', '.join(JUDGES)}, or {OWN}")
    if name in JUDGES and name not in known:
        reason = _REASONS[name].format(world=world)
        raise InputError(f"--judge {name} {reason}; expected {known[0]} here, {', '.join(known[1:])}, or {OWN}")
    for flag, value, needed in (
        ("judge_model", settings.model, name in MODELS),
        ("judge_template", settings.template, name == "harmbench"),
    ):
        if needed and not value:
            raise InputError(f"--judge {name} needs --{flag}; it is missing")
        if value and not needed:
            raise InputError(f"--judge {name} does not use --{flag} {value}; remove it")


def _judges_of(world: str) -> tuple[str, ...]:
    """Return the names of the judges that can judge a world."""
    return tuple(dict.fromkeys((RULES[world], *(BUILTIN if world in _WORDED else ()), *MODELS)))


def open_judge(settings: JudgeSettings, world: str, note: Callable[[str], None] = warn) -> Judge | None:
    """Return a judge with its files checked but its weights not loaded yet.

    Args:
      settings: settings of the judge.
      world: ``"toy"``, ``"policy"`` or ``"real"``.
      note: called with one line about each peculiarity of a judge model's files; see ``load_model``.

    Returns:
      The judge; an ``AnswerJudge`` decides on refusals of harmless requests too. None for a world's own rule.

    Raises:
      InputError: as in ``check_judge``, or if a model, tokenizer or template cannot judge.
    """
    check_judge(settings, world)
    if settings.name in MODELS:
        return ModelJudge(settings, note)
    if settings.name in BUILTIN:
        return as_judge(builtin(settings.name))
    return as_judge(settings.name) if is_own(settings.name) else None


def describe_judge(settings: JudgeSettings, judge: Judge | None) -> dict[str, Any]:
    """Return a judge for a record: its name and model, and the digest of a file of the user's."""
    digest = judge.digest if isinstance(judge, AnswerJudge) else None
    return {"judge": settings.name, "judge_model": settings.model, **({"judge_sha256": digest} if digest else {})}


class ModelJudge:
    """A judge model.

    Args:
      settings: judge, model and template.
      note: see ``open_judge``.

    Raises:
      InputError: if files are missing or damaged, or the model is of the wrong kind.
    """

    def __init__(self, settings: JudgeSettings, note: Callable[[str], None] = warn):
        self._settings, self._place, self._note = settings, str(settings.model), note
        self._question = read_template(settings.template) if settings.template else ""
        if "{context}" in self._question:
            raise InputError(
                f"{settings.template}: has the placeholder {{context}}, but the requests already include their "
                "context; use the template without it"
            )
        if settings.name == "qa_moderation":
            category_columns(open_classifier(self._place))
        else:
            folder = resolve(self._place)
            check_weights(folder, read_config(folder))
        self._tokenizer = load_tokenizer(self._place)
        if settings.name == "qa_moderation":
            check_moderation_tokenizer(self._tokenizer)
        if settings.name == "guard":
            check_guard_tokenizer(self._tokenizer)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Verdicts:
        """Load the model, judge, and release it; see ``moderate``, ``guard`` and ``classify_harm``.

        The model is not loaded if all responses are broken.
        """
        check_pairs(prompts, responses)
        return judge_sound(
            responses, lambda rows: self._ask([prompts[row] for row in rows], [responses[row] for row in rows])
        )

    def _ask(self, prompts: list[str], responses: list[str]) -> Verdicts:
        load: Any = load_classifier if self._settings.name == "qa_moderation" else load_model
        model, params = load(self._place, dtype=jnp.dtype(self._settings.dtype), note=self._note)
        if self._settings.name == "qa_moderation":
            return moderate(model, params, self._tokenizer, prompts, responses)
        if self._settings.name == "guard":
            return guard(model, params, self._tokenizer, prompts, responses)
        return classify_harm(model, params, self._tokenizer, self._question, prompts, responses)
