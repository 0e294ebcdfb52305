"""Encode examples and preferences as token ids, with the position where each response begins."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.data.examples import Encoded, Example, Preference
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

LONG_PROMPT, CUT, EMPTY = "skipped_long_prompt", "cut_responses", "skipped_no_tokens"


class Encodings(NamedTuple):
    """Encoded training rows.

    Attributes:
      rows: tuples of one ``Encoded`` (prompt + response), or of two (chosen, rejected).
      kept: ``[n]`` int32, index of each row in the input; skipped rows are missing.
      counts: number of ``rows`` given, ``used``, ``skipped_long_prompt``, ``skipped_no_tokens``, ``cut_responses``,
        ``response_positions``.
    """

    rows: list[tuple[Encoded, ...]]
    kept: np.ndarray
    counts: dict[str, int]


def encode(
    rows: Sequence[Example] | Sequence[Preference],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    special_tokens: bool = True,
    vocabulary: int | None = None,
) -> Encodings:
    """Encode rows as ``tokens(prompt) ++ tokens(response) ++ [end]``.

    Prompt and response are tokenised separately, so that the start of the response is exact. A prompt that
    leaves no room for a response is skipped. A response that does not fit is cut and gets no end token,
    because it does not end there. Both are counted.

    Args:
      rows: examples, or preferences; not both.
      tokenizer: a transformers tokenizer.
      max_length: longest sequence in tokens.
      special_tokens: let the tokenizer add its special tokens to prompts, as Hugging Face does by default.
        False for prompts rendered with a chat template, which already contain them. A sequence never begins
        with more than one BOS.
      vocabulary: size of the model's embedding; None to skip the check.

    Returns:
      An ``Encodings``.

    Raises:
      InputError: if there are no rows, rows of both kinds, no end token, no row that fits, or a token outside
        the embedding.
    """
    texts = _responses(rows)
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError("the tokenizer has no end token (eos_token); set one, because responses end with it")
    if max_length < 2:
        raise InputError(f"max_length is {max_length}; expected at least 2 tokens")
    prompts = encode_prompts([row.prompt for row in rows], tokenizer, special_tokens=special_tokens)
    responses = [_tokens(tokenizer, column, special_tokens=False) for column in texts]
    found = _join(prompts, list(zip(*responses, strict=True)), end, max_length)
    for index, row in zip(found.kept, found.rows, strict=True):
        for text in row:
            check_vocabulary(text.ids, tokenizer, vocabulary, f"row {index}")
    return found


def describe_counts(counts: Mapping[str, int]) -> str:
    """Describe the rows that ``encode`` skipped or cut; empty if there are none.

    >>> describe_counts({"rows": 5, "used": 4, LONG_PROMPT: 1, CUT: 2})
    'used 4 of 5 rows; 1 prompt too long; 2 responses cut'
    """
    kinds = {LONG_PROMPT: "prompt{} too long", EMPTY: "row{} without tokens", CUT: "response{} cut"}
    found = {text: counts.get(name, 0) for name, text in kinds.items()}
    parts = [f"{number} {text.format('s' * (number > 1))}" for text, number in found.items() if number]
    return "; ".join([f"used {counts['used']} of {counts['rows']} rows", *parts]) if parts else ""


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    special_tokens: bool = True,
    vocabulary: int | None = None,
) -> list[list[int]]:
    """Tokenise prompts with at most one BOS and nothing appended.

    Training, calibration, evaluation and judges all use these tokens. Tokens that the tokenizer is configured to
    append, such as an end token, are removed, because the response continues the text.

    Args:
      prompts: rendered prompts.
      tokenizer: a transformers tokenizer.
      special_tokens: as in ``encode``.
      vocabulary: size of the model's embedding; None to skip the check.

    Raises:
      InputError: if a prompt has a token outside the embedding.
    """
    own = _tokens(tokenizer, prompts, special_tokens=False)
    whole = _tokens(tokenizer, prompts, special_tokens=True) if special_tokens else own
    bos, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = [_plain(ids, text, bos, end) for ids, text in zip(whole, own, strict=True)]
    for index, ids in enumerate(found):
        check_vocabulary(ids, tokenizer, vocabulary, f"row {index}")
    return found


def _plain(ids: list[int], own: list[int], bos: int | None, end: int | None) -> list[int]:
    """Remove a second BOS, and anything appended to a text whose own tokens are known."""
    places = range(len(ids) - len(own) + 1) if own else ()
    first = next((place for place in places if ids[place : place + len(own)] == own), None)
    if first is not None:
        # A text rendered with a chat template already begins with the tokens the tokenizer would prepend.
        ids = own if own[:first] == ids[:first] else ids[: first + len(own)]
    while first is None and end is not None and ids[-1:] == [end] and ids != [bos]:
        ids = ids[:-1]
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return ids


def ended(answer: list[int], end: int) -> list[int]:
    """Return an answer's tokens followed by exactly one end token; the text may already contain it."""
    return answer if answer[-1] == end else [*answer, end]


def check_vocabulary(
    ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer, vocabulary: int | None, place: str
) -> None:
    """Check that all tokens are inside the model's embedding.

    Args:
      ids: token ids in a sequence.
      tokenizer: the tokenizer that produced them.
      vocabulary: size of the embedding; None to skip the check.
      place: where the text comes from, for messages.

    Raises:
      InputError: if a token is outside; the message names the place and the token.
    """
    if vocabulary is None or not len(ids):
        return
    low, high = int(np.min(ids)), int(np.max(ids))
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"{place}: tokens run from {low} to {high}; the vocabulary has {vocabulary}: the tokenizer's "
            f"{tokenizer.convert_ids_to_tokens(high)!r} has no row in the model's embedding; use the tokenizer "
            "that the model was trained with, or remove this text"
        )


def note_surplus(tokenizer: Tokenizer, vocabulary: int) -> list[str]:
    """Return a note if the tokenizer has tokens outside the model's embedding; rows need not use them."""
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last < vocabulary:
        return []
    return [
        f"the tokenizer's tokens run to {last}, but the embedding has {vocabulary}: rows with others are refused"
    ]


def _responses(rows: Sequence[Example] | Sequence[Preference]) -> list[list[str]]:
    """Return the responses of all rows, one list for each response of a row."""
    examples = [row.response for row in rows if isinstance(row, Example)]
    pairs = [(row.chosen, row.rejected) for row in rows if isinstance(row, Preference)]
    if examples and len(examples) == len(rows):
        return [examples]
    if pairs and len(pairs) == len(rows):
        return [[chosen for chosen, _ in pairs], [rejected for _, rejected in pairs]]
    found = " and ".join(sorted({type(row).__name__ for row in rows})) or "no rows"
    raise InputError(f"got {found} to encode; expected Example rows only, or Preference rows only")


def _tokens(tokenizer, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=special_tokens, return_attention_mask=False)["input_ids"]


def _join(prompts, responses, end: int, max_length: int) -> Encodings:
    counts = dict.fromkeys(("rows", "used", LONG_PROMPT, EMPTY, CUT, "response_positions"), 0)
    counts["rows"] = len(prompts)
    rows: list[tuple[Encoded, ...]] = []
    kept: list[int] = []
    for index, (prompt, answers) in enumerate(zip(prompts, responses, strict=True)):
        if len(prompt) >= max_length:
            counts[LONG_PROMPT] += 1
            continue
        if not prompt or not all(answers):
            counts[EMPTY] += 1
            continue
        whole = [prompt + ended(answer, end) for answer in answers]
        counts[CUT] += sum(len(ids) > max_length for ids in whole)
        rows.append(tuple(Encoded(np.asarray(ids[:max_length], np.int32), len(prompt)) for ids in whole))
        kept.append(index)
        counts["response_positions"] += sum(len(text.ids) - text.start for text in rows[-1])
    counts["used"] = len(rows)
    if not rows:
        raise InputError(
            f"none of the {counts['rows']} rows fits max_length {max_length}; raise it, or shorten prompts"
        )
    return Encodings(rows, np.asarray(kept, np.int32), counts)
