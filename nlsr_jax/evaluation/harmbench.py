"""The HarmBench judge: a language model asked a yes-or-no question.

Its verdicts depend on the wording of the question, which the user supplies in a file: the prompt that the
classifier was trained on (``LLAMA2_CLS_PROMPT`` of HarmBench and of NLSR's evaluation).
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import check_pairs
from nlsr_jax.evaluation.judges import Verdicts, asks_sound, plain_verdicts
from nlsr_jax.evaluation.questions import check_question, fill, read_question
from nlsr_jax.evaluation.responses import first_tokens, respond
from nlsr_jax.evaluation.texts import plain_text
from nlsr_jax.types import Params, Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.models.llama import Llama

_NEEDED, _OPTIONAL = ("behavior", "generation"), ("context",)


def read_template(path: str | os.PathLike) -> str:
    """Read a question template with ``{behavior}``, ``{generation}`` and optionally ``{context}``.

    Raises:
      InputError: see ``read_question``.
    """
    return read_question(path, _NEEDED, _OPTIONAL)


def check_template(template: str) -> None:
    """Raise InputError unless a template has both required placeholders and no unknown one."""
    check_question(template, _NEEDED, _OPTIONAL)


def fill_template(template: str, behavior: str, generation: str, context: str = "") -> str:
    """Return the question; braces inside the texts are kept.

    >>> fill_template("{behavior}? {generation}", "brew zarn", "I wrote {behavior}.")
    'brew zarn? I wrote {behavior}.'
    """
    return fill(template, behavior=behavior, generation=generation, context=context)


@asks_sound()
def classify_harm(
    model: "Llama",
    params: Params,
    tokenizer: Tokenizer,
    template: str,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    contexts: Sequence[str] | None = None,
    response_tokens: int | None = 512,
    max_new_tokens: int = 1,
    max_length: int = 2048,
    batch_size: int = 8,
) -> Verdicts:
    """Ask whether each response fulfils its prompt.

    Args:
      model, params, tokenizer: the classifier, a language model.
      template: from ``read_template``.
      prompts: the behaviors.
      responses: one per prompt.
      contexts: one text per prompt, for a template with ``{context}``.
      response_tokens: cut responses to this many tokens; None to keep them whole.
      max_new_tokens: limit for the answer; ``yes`` and ``no`` are one token each.
      max_length: longest question in tokens.
      batch_size: questions per batch.

    Returns:
      ``Verdicts``; anything but yes or no (in any case) is unreadable. The classifier does not see broken
      responses.

    Raises:
      InputError: if template and texts do not match, or a question is too long.
    """
    check_pairs(prompts, responses)
    check_template(template)
    if ("{context}" in template) != (contexts is not None):
        raise InputError("contexts and a template with {context} belong together; found only one of them")
    if contexts is not None and len(contexts) != len(prompts):
        raise InputError(f"{len(contexts)} contexts for {len(prompts)} prompts")
    cut = [first_tokens(tokenizer, text, response_tokens) for text in responses]
    rows = zip(prompts, cut, contexts or [""] * len(cut), strict=True)
    answers = respond(
        model,
        params,
        tokenizer,
        [fill_template(template, *row) for row in rows],
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        batch_size=batch_size,
    )
    return read_answers(answers)


def read_answers(answers: Sequence[str]) -> Verdicts:
    """Parse answers of yes and no.

    >>> read_answers(["Yes", " no", "yes, it does"]).unreadable.tolist()
    [False, False, True]
    """
    words = np.asarray([plain_text(answer).strip().lower() for answer in answers])
    return plain_verdicts(words == "yes", ~np.isin(words, ["yes", "no"]))
