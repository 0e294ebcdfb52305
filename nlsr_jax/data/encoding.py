"""Examples and preferences as token ids, with the place where each response begins."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.data.examples import Encoded, Example, Preference
from nlsr_jax.errors import InputError

LONG_PROMPT, CUT, EMPTY = "skipped_long_prompt", "cut_responses", "skipped_no_tokens"


class Encodings(NamedTuple):
    """Encoded training rows.

    Attributes:
      rows: tuples of one ``Encoded`` (prompt + response), or of two (chosen, rejected).
      kept: index of each row in what was given, ``[n]`` int32; skipped rows are missing.
      counts: ``rows`` given, ``used``, ``skipped_long_prompt``, ``skipped_no_tokens``, ``cut_responses``,
        ``response_positions``.
    """

    rows: list[tuple[Encoded, ...]]
    kept: np.ndarray
    counts: dict[str, int]


def encode(
    rows: Sequence[Example] | Sequence[Preference],
    tokenizer,
    *,
    max_length: int,
    special_tokens: bool = True,
    vocabulary: int | None = None,
) -> Encodings:
    """Encode rows as ``tokens(prompt) ++ tokens(response) ++ [end]``.

    Prompt and response are tokenised apart, so that the response begins at a sure place. A prompt that
    leaves no room for a response is skipped; a response that does not fit is cut, and then carries no end
    token, for it does not end there. Both are counted.

    Args:
      rows: examples, or preferences; not both.
      tokenizer: a transformers tokenizer.
      max_length: longest sequence in tokens.
      special_tokens: let the tokenizer add its own special tokens to prompts, as Hugging Face does by
        default. False for prompts that a chat template rendered, which hold all they need. There is never
        more than one BOS at the beginning, whatever prompt and tokenizer bring along.
      vocabulary: how many tokens the model's embedding has; None leaves them unchecked.

    Returns:
      An ``Encodings``.

    Raises:
      InputError: no rows, rows of both kinds, no end token, no row that fits, or a row with a token that the
        embedding has not.
    """
    texts = _responses(rows)
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError("the tokenizer has no end token (eos_token); set one, responses end with it")
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
    """Say which rows ``encode`` could not take as they were; empty where it took them all.

    >>> describe_counts({"rows": 5, "used": 4, LONG_PROMPT: 1, CUT: 2})
    'used 4 of 5 rows; 1 prompt too long; 2 responses cut'
    """
    kinds = {LONG_PROMPT: "prompt{} too long", EMPTY: "row{} without tokens", CUT: "response{} cut"}
    found = {text: counts.get(name, 0) for name, text in kinds.items()}
    parts = [f"{number} {text.format('s' * (number > 1))}" for text, number in found.items() if number]
    return "; ".join([f"used {counts['used']} of {counts['rows']} rows", *parts]) if parts else ""


def encode_prompts(
    prompts: Sequence[str],
    tokenizer,
    *,
    special_tokens: bool = True,
    vocabulary: int | None = None,
) -> list[list[int]]:
    """Tokenise prompts: BOS at most once, and behind them nothing but what they spell out themselves.

    Training, calibration, evaluation and judges all ask with these tokens. What a tokenizer is set to add behind a
    text, such as an end token, is taken off: the text goes on.

    Args:
      prompts: rendered prompts.
      tokenizer: a transformers tokenizer.
      special_tokens: as in ``encode``.
      vocabulary: how many tokens the model's embedding has; None leaves them unchecked.

    Raises:
      InputError: a prompt with a token that the embedding has not.
    """
    own = _tokens(tokenizer, prompts, special_tokens=False)
    whole = _tokens(tokenizer, prompts, special_tokens=True) if special_tokens else own
    bos, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = [_plain(ids, text, bos, end) for ids, text in zip(whole, own, strict=True)]
    for index, ids in enumerate(found):
        check_vocabulary(ids, tokenizer, vocabulary, f"row {index}")
    return found


def _plain(ids: list[int], own: list[int], bos: int | None, end: int | None) -> list[int]:
    """Take a second BOS off, and what was added behind a text whose own tokens are known."""
    places = range(len(ids) - len(own) + 1) if own else ()
    first = next((place for place in places if ids[place : place + len(own)] == own), None)
    if first is not None:
        # A text that a chat template rendered brings along what the tokenizer would put before it.
        ids = own if own[:first] == ids[:first] else ids[: first + len(own)]
    while first is None and end is not None and ids[-1:] == [end] and ids != [bos]:
        ids = ids[:-1]
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return ids


def ended(answer: list[int], end: int) -> list[int]:
    """Return an answer's tokens with the end token behind them, once: its text may spell it already."""
    return answer if answer[-1] == end else [*answer, end]


def check_vocabulary(ids, tokenizer, vocabulary: int | None, place: str) -> None:
    """Refuse tokens that the model's embedding has not.

    Args:
      ids: token ids in a sequence.
      tokenizer: where they come from.
      vocabulary: how many tokens the embedding has; None for any.
      place: where the text stands.

    Raises:
      InputError: naming the place and the tokens.
    """
    if vocabulary is None or not len(ids):
        return
    low, high = int(np.min(ids)), int(np.max(ids))
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"{place}: tokens run from {low} to {high}; the vocabulary has {vocabulary}: the tokenizer's "
            f"{tokenizer.convert_ids_to_tokens(high)!r} has no row in the model's embedding; take the tokenizer "
            "that the model was trained with, or leave this text out"
        )


def note_surplus(tokenizer, vocabulary: int) -> list[str]:
    """Return a note where a tokenizer has tokens that the model's embedding has not; rows may do without them."""
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last < vocabulary:
        return []
    return [
        f"the tokenizer's tokens run to {last}, the embedding has {vocabulary}: rows with the others are refused"
    ]


def _responses(rows: Sequence[Example] | Sequence[Preference]) -> list[list[str]]:
    """Return the responses of all rows, one list for every response that a row has."""
    examples = [row.response for row in rows if isinstance(row, Example)]
    pairs = [(row.chosen, row.rejected) for row in rows if isinstance(row, Preference)]
    if examples and len(examples) == len(rows):
        return [examples]
    if pairs and len(pairs) == len(rows):
        return [[chosen for chosen, _ in pairs], [rejected for _, rejected in pairs]]
    found = " and ".join(sorted({type(row).__name__ for row in rows})) or "no rows"
    raise InputError(f"there are {found} to encode; expected Example rows, or Preference rows")


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
            f"none of {counts['rows']} rows fits max_length {max_length}; raise it, or shorten prompts"
        )
    return Encodings(rows, np.asarray(kept, np.int32), counts)
