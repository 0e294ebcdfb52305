"""Calibration data: (prompt, safe response) pairs as padded token batches with response masks.

Axis legend: B batch, T positions.
"""

import importlib
import json
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.data.answered import read_answered
from nlsr_jax.data.encoding import check_vocabulary, encode_prompts, ended
from nlsr_jax.data.examples import Encoded
from nlsr_jax.data.row_shapes import Fields
from nlsr_jax.data.rows import Note, no_note
from nlsr_jax.data.templates import renders_turns
from nlsr_jax.errors import InputError, reason_of
from nlsr_jax.files.paths import check_regular, expand_text, is_folder
from nlsr_jax.types import Tokenizer

SHORTEST = 32
_TOKENIZER = "tokenizer_config.json"
_IMPORTING = threading.Lock()


class Calibration(NamedTuple):
    """Encoded calibration rows and the counts stored in the record.

    Attributes:
      rows: tuples of one ``Encoded`` (prompt + response), or of two (chosen, rejected).
      counts: number of ``rows`` read, ``used``, ``skipped_long_prompt``, ``cut_responses``,
        ``response_positions``.
    """

    rows: list[tuple[Encoded, ...]]
    counts: dict[str, int]


def load_tokenizer(path: str) -> Tokenizer:
    """Load the tokenizer of a Hugging Face directory or hub id, without running code from the directory.

    Raises:
      InputError: if no tokenizer can be loaded.
    """
    path = expand_text(path)
    if "@" in path and not is_folder(path):  # a hub id with a revision
        from nlsr_jax.formats.hugging_face import resolve

        path = str(resolve(path))
    if is_folder(path):
        check_regular(pathlib.Path(path))
    try:
        if _is_plain(pathlib.Path(path)):
            return _of_transformers("PreTrainedTokenizerFast").from_pretrained(path, local_files_only=True)
        automatic = _of_transformers("AutoTokenizer")
        return automatic.from_pretrained(path, trust_remote_code=False, local_files_only=is_folder(path))
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"{path}: no usable tokenizer ({reason})") from error


def _of_transformers(name: str) -> Any:
    """Return a class of transformers.

    Its package replaces itself while it is imported, and a second thread that imports it meanwhile gets a module
    without the class.
    """
    with _IMPORTING:
        return getattr(importlib.import_module("transformers"), name)


def _is_plain(folder: pathlib.Path) -> bool:
    """Return whether AutoTokenizer would pick the class that reads tokenizer.json as it is.

    AutoTokenizer itself would load the model modules to find out, including torch if installed: five seconds.
    """
    try:
        model, tokenizer = (json.loads((folder / name).read_text()) for name in ("config.json", _TOKENIZER))
        plain = tokenizer["tokenizer_class"] in ("PreTrainedTokenizerFast", "TokenizersBackend")
        return plain and model["model_type"] == "llama" and not {"auto_map"} & {*model, *tokenizer}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_calibration(
    source: str,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    template: str = "none",
    preference: bool = False,
    vocabulary: int | None = None,
    fields: Fields | None = None,
    note: Note = no_note,
    end_token: bool = False,
) -> Calibration:
    """Read and encode calibration rows.

    A row is ``tokens(prompt) ++ tokens(response)``; the prompt includes the tokenizer's special tokens. A
    prompt that leaves no room for a response within ``max_length`` is skipped, and a response that does
    not fit is cut. Both are counted.

    Args:
      source: a file or hub data set with columns ``prompt`` and ``response`` (and ``rejected``), or in any other
        shape that ``read_answered`` supports.
      tokenizer: a transformers tokenizer.
      max_length: longest sequence in tokens.
      template: how a prompt is rendered; see ``apply_template``.
      preference: also encode ``rejected``.
      vocabulary: size of the model's embedding; None to skip the check.
      fields: column names given by the user.
      note: called with messages for the user, one line each.
      end_token: append the tokenizer's end token, if any, to responses that are not cut, as training does.

    Returns:
      A ``Calibration``.

    Raises:
      InputError: if rows cannot be read, no row has a safe answer, no prompt fits, or a token is outside the
        embedding.
    """
    if max_length < 2:
        raise InputError(f"max_length is {max_length}; expected at least 2 tokens")
    columns = ("prompt", "response", "rejected") if preference else ("prompt", "response")
    counts = dict.fromkeys(("rows", "used", "skipped_long_prompt", "cut_responses", "response_positions"), 0)
    rows = []
    special_tokens = not renders_turns(template)
    found = read_answered(source, tokenizer, template=template, fields=fields, preference=preference, note=note)
    counts["rows"] += sum(found.skipped.values())
    counts |= found.skipped
    for row in found.rows:
        counts["rows"] += 1
        (prompt,) = encode_prompts([row.prompt], tokenizer, special_tokens=special_tokens)
        if len(prompt) >= max_length:
            counts["skipped_long_prompt"] += 1
            continue
        answers = [tokenizer(getattr(row, c), add_special_tokens=False)["input_ids"] for c in columns[1:]]
        if not all(answers):
            counts["skipped_no_tokens"] = counts.get("skipped_no_tokens", 0) + 1
            continue
        if end_token and tokenizer.eos_token_id is not None:
            answers = [ended(answer, tokenizer.eos_token_id) for answer in answers]
        counts["cut_responses"] += sum(len(prompt) + len(answer) > max_length for answer in answers)
        encoded = tuple(
            Encoded(np.asarray((prompt + answer)[:max_length], np.int32), len(prompt)) for answer in answers
        )
        for one in encoded:
            check_vocabulary(one.ids, tokenizer, vocabulary, f"{source}: row {counts['rows']}")
        counts["used"] += 1
        counts["response_positions"] += len(encoded[0].ids) - len(prompt)
        rows.append(encoded)
    if not rows:
        raise InputError(
            f"{source}: none of the {counts['rows']} rows fits --max_length {max_length}; "
            "raise it or shorten the prompts"
        )
    return Calibration(rows, counts)


def bucket_length(length: int, max_length: int) -> int:
    """Return the padded length: a power of two from 32, at most ``max_length``."""
    bucket = SHORTEST
    while bucket < length:
        bucket *= 2
    return max(length, min(bucket, max_length))


def round_up(length: int, step: int = 8) -> int:
    """Return the least multiple of ``step`` that is at least ``length``."""
    return step * -(-length // step)


def batches(
    rows: Sequence[tuple[Encoded, ...]],
    batch_size: int,
    max_length: int,
    among: Sequence[tuple[Encoded, ...]] | None = None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield right-padded batches of rows of similar length, each padded to a full batch.

    Args:
      rows: encoded rows, each of one or two texts.
      batch_size: B; the last batch is filled up with rows that have no response positions.
      max_length: the longest sequence. Rows are sorted by ``bucket_length``; a batch has the bucket of its last
        row. T is the longest row of that bucket, rounded up to a multiple of 8; in the first bucket it is 32.
      among: the rows that decide T; ``rows`` are a part of them. All parts then share their programs. By default
        ``rows``.

    Yields:
      ``(tokens [B, T] int32, response_mask [B, T] bool)`` for each text of a row, in a flat tuple.
    """
    longest: dict[int, int] = {}
    for row in rows if among is None else among:
        bucket = bucket_length(_length(row), max_length)
        longest[bucket] = max(longest.get(bucket, 0), _length(row))
    ordered = sorted(rows, key=lambda row: bucket_length(_length(row), max_length))
    for start in range(0, len(ordered), batch_size):
        group, arrays = ordered[start : start + batch_size], []
        bucket = bucket_length(_length(group[-1]), max_length)
        length = bucket if bucket <= SHORTEST else min(round_up(longest[bucket]), bucket)
        for part in range(len(group[0])):
            arrays += _pad([row[part] for row in group], batch_size, length)
        yield tuple(arrays)


def _length(row: tuple[Encoded, ...]) -> int:
    """Return the number of tokens of a row's longest text."""
    return max(len(text.ids) for text in row)


def _pad(texts, batch_size, length):
    tokens = np.zeros((batch_size, length), np.int32)
    mask = np.zeros((batch_size, length), bool)
    for i, text in enumerate(texts):
        tokens[i, : len(text.ids)] = text.ids
        mask[i, text.start : len(text.ids)] = True
    return tokens, mask
