"""Judges that are models. One is loaded when it judges, and released afterwards.

It is therefore never in memory together with the model that it judges. Its files are checked in advance.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation import strongreject
from nlsr_jax.evaluation.batching import check_pairs
from nlsr_jax.evaluation.guard import check_guard_tokenizer, guard
from nlsr_jax.evaluation.harmbench import classify_harm, read_template
from nlsr_jax.evaluation.judges import Verdicts, judge_sound
from nlsr_jax.evaluation.moderation import category_columns, check_moderation_tokenizer, moderate
from nlsr_jax.evaluation.questions import read_question
from nlsr_jax.evaluation.wildguard import wildguard
from nlsr_jax.formats.hugging_face import check_weights, read_config, resolve
from nlsr_jax.models.classifier import load_classifier, open_classifier
from nlsr_jax.models.load import load_model, warn
from nlsr_jax.types import Tokenizer

MODELS = ("qa_moderation", "guard", "harmbench", "wildguard", "strongreject")
WITH_TEMPLATE, WITHOUT_OWN = ("harmbench", "strongreject"), ("harmbench",)
"""Judges that take the user's question, and those that have none of their own."""


class _Kind(NamedTuple):
    """How a judge is checked and asked; ``ask`` takes model, params, tokenizer, question, prompts and responses."""

    check: Callable[[Tokenizer], None]
    ask: Callable[..., Verdicts]
    is_classifier: bool = False
    tells_refusals: bool = False


def _unasked(judge: Callable[..., Verdicts]) -> Callable[..., Verdicts]:
    """Return a judge that takes a question and leaves it out."""
    return lambda model, params, tokenizer, question, *pairs: judge(model, params, tokenizer, *pairs)


def _any(_: Tokenizer) -> None:
    """Accept every tokenizer."""


_KINDS = {
    "qa_moderation": _Kind(check_moderation_tokenizer, _unasked(moderate), is_classifier=True),
    "guard": _Kind(check_guard_tokenizer, _unasked(guard)),
    "harmbench": _Kind(_any, classify_harm),
    "wildguard": _Kind(_any, _unasked(wildguard), tells_refusals=True),
    "strongreject": _Kind(strongreject.check_rubric_tokenizer, strongreject.grade_harm),
}


class ModelJudge:
    """A judge model.

    Args:
      name: one of ``MODELS``.
      place: Hugging Face directory or hub id.
      template: file with its question; None for its own.
      dtype: dtype of its weights.
      note: called with one line about each peculiarity of its files; see ``load_model``.

    Raises:
      InputError: if files are missing or damaged, or the model is of the wrong kind.

    Attributes:
      tells_refusals: whether its verdicts tell which answers refuse, to harmless requests too.
    """

    def __init__(
        self,
        name: str,
        place: str,
        template: str | None = None,
        dtype: str = "float32",
        note: Callable[[str], None] = warn,
    ):
        self._kind, self._place, self._dtype, self._note = _KINDS[name], place, dtype, note
        self._question = _question(name, template)
        self.tells_refusals = self._kind.tells_refusals
        if self._kind.is_classifier:
            category_columns(open_classifier(place))
        else:
            folder = resolve(place)
            check_weights(folder, read_config(folder))
        self._tokenizer = load_tokenizer(place)
        self._kind.check(self._tokenizer)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Verdicts:
        """Load the model, judge, and release it; see ``moderate``, ``guard`` and the others.

        The model is not loaded if all responses are broken.
        """
        check_pairs(prompts, responses)
        return judge_sound(
            responses, lambda rows: self._ask([prompts[row] for row in rows], [responses[row] for row in rows])
        )

    def _ask(self, prompts: list[str], responses: list[str]) -> Verdicts:
        load: Any = load_classifier if self._kind.is_classifier else load_model
        model, params = load(self._place, dtype=jnp.dtype(self._dtype), note=self._note)
        return self._kind.ask(model, params, self._tokenizer, self._question, prompts, responses)


def _question(name: str, template: str | None) -> str:
    """Return the question of a judge that takes one."""
    if name == "strongreject":
        return read_question(template, strongreject.FIELDS) if template else strongreject.QUESTION
    question = read_template(template) if template else ""
    if "{context}" in question:
        raise InputError(
            f"{template}: has the placeholder {{context}}, but the requests already include their context; use the "
            "template without it"
        )
    return question
