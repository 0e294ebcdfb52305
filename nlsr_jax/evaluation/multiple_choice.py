"""Multiple choice by likelihood: find the answer that the model considers most likely.

Source: the rules of the lm-evaluation-harness. One deviation: ``acc_norm`` divides by UTF-8 bytes, the harness
by characters; the two agree on ASCII text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.encoding import check_vocabulary, encode_prompts
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import bucketed, next_tokens
from nlsr_jax.models.likelihood import log_likelihood
from nlsr_jax.types import Params, Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.models.llama import Llama


class Question(NamedTuple):
    """One question.

    Attributes:
      contexts: one text for all choices, or one per choice (as in Winogrande).
      choices: the answers, without the preceding space.
      correct: whether each choice is true; one of them, or several (as in TruthfulQA's mc2).
    """

    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    correct: tuple[bool, ...]


class ChoiceScores(NamedTuple):
    """Scores of n questions, each ``[n]`` float64 in [0, 1].

    Attributes:
      acc: whether the most likely choice is correct.
      acc_norm: the same, with each log-likelihood divided by the number of bytes of its choice.
      mc2: the probability of the correct choices relative to all choices.
    """

    acc: np.ndarray
    acc_norm: np.ndarray
    mc2: np.ndarray


def answer_choices(
    model: "Llama",
    params: Params,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    adapter: Adapter | None = None,
    delimiter: str = " ",
    special_tokens: bool = False,
    max_length: int = 2048,
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Return the log-likelihood of every choice after its context.

    Args:
      model, params: from ``load_model``.
      tokenizer: a transformers tokenizer.
      questions: the questions.
      adapter: LoRA adapter to apply; None for the base alone.
      delimiter: text between a context and a choice.
      special_tokens: let the tokenizer prepend its special tokens (the harness does not).
      max_length: longest sequence in tokens; a longer context loses its beginning.
      batch_size: choices per batch.

    Returns:
      ``[C]`` float32 for each question.

    Raises:
      InputError: if a question is malformed or has a token outside the embedding, or a choice alone is longer
        than ``max_length``.
    """
    rows: list[list[int]] = []
    starts: list[int] = []
    for number, question in enumerate(questions):
        check_question(question, number)
        contexts = question.contexts * (len(question.choices) if len(question.contexts) == 1 else 1)
        for context, choice in zip(contexts, question.choices, strict=True):
            ids, start = _encode(tokenizer, context, delimiter + choice, special_tokens)
            if ids[0] is None:
                raise InputError(f"question {number}: no context, and the tokenizer has no BOS token to begin with")
            check_vocabulary(ids, tokenizer, len(params["embed"]), f"question {number}")
            if len(ids) - start > max_length:
                raise InputError(
                    f"question {number}: a choice has {len(ids) - start} tokens; max_length is {max_length}"
                )
            cut = max(len(ids) - 1 - max_length, 0)
            rows.append(ids[cut:])
            starts.append(start - cut)
    found = np.zeros(len(rows), np.float32)
    for batch in bucketed([ids[:-1] for ids in rows], batch_size=batch_size, max_length=max_length):
        targets, keep = next_tokens(batch, rows, starts)
        summed = log_likelihood(
            model, params, batch.tokens, targets, keep, adapter=adapter, attention_mask=batch.mask
        )
        found[batch.rows] = np.asarray(summed)[: len(batch.rows)]
    return np.split(found, np.cumsum([len(question.choices) for question in questions])[:-1]) if rows else []


def check_question(question: Question, number: int = 0) -> None:
    """Raise InputError unless a question's contexts, choices and truths match in number."""
    contexts, choices, correct = question
    if isinstance(contexts, str) or isinstance(choices, str) or len(choices) < 2:
        raise InputError(f"question {number}: expected a tuple of contexts and at least two choices")
    if len(contexts) not in (1, len(choices)) or len(correct) != len(choices) or not any(correct):
        counts = f"{len(contexts)} contexts, {len(choices)} choices, {len(correct)} truths"
        raise InputError(
            f"question {number}: {counts}; expected one context, or one per choice, and at least one true choice"
        )
    if not all(choices):
        raise InputError(f"question {number}: a choice is empty")


def score_choices(questions: Sequence[Question], found: Sequence[np.ndarray]) -> ChoiceScores:
    """Score questions from the log-likelihoods of their choices.

    Args:
      questions: the questions.
      found: from ``answer_choices``.

    Raises:
      InputError: if there is not one log-likelihood per choice.
    """
    scores = np.zeros((3, len(questions)))
    for number, question in enumerate(questions):
        check_question(question, number)
        if len(found) != len(questions) or np.shape(found[number]) != (len(question.choices),):
            raise InputError(f"question {number}: expected a log-likelihood for each of its choices")
        values, correct = np.asarray(found[number], np.float64), np.asarray(question.correct, bool)
        sizes = np.asarray([len(choice.encode()) for choice in question.choices])
        chances = np.exp(values - values.max())
        scores[:, number] = (
            correct[np.argmax(values)],
            correct[np.argmax(values / sizes)],
            chances[correct].sum() / chances.sum(),
        )
    return ChoiceScores(*scores)


def _encode(tokenizer, context: str, continuation: str, special_tokens: bool):
    """Return the tokens of both texts and where the second begins; spaces in between belong to the second."""
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    texts = [kept, kept + continuation]
    start, whole = encode_prompts(texts, tokenizer, special_tokens=special_tokens)
    if not kept and not special_tokens:
        start = []
    if not start:  # the model needs a first token
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [first, *whole], 1
    return whole, min(len(start), len(whole) - 1)
