"""Batch token sequences of different lengths into a few shapes, so that each shape compiles once.

Axis legend: B batch, T positions.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.data.calibration import SHORTEST, bucket_length, round_up
from nlsr_jax.errors import InputError

_FINE = 4


class Batch(NamedTuple):
    """Sequences of similar length, padded to one shape.

    Attributes:
      rows: ``[n]`` indices of the sequences, n at most B.
      tokens: ``[B, T]`` int32; rows from n on repeat row 0 to fill the batch.
      mask: ``[B, T]`` bool, False at padding.
    """

    rows: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray


def bucketed(
    sequences: Sequence[Sequence[int]], *, batch_size: int, max_length: int, side: str = "right"
) -> Iterator[Batch]:
    """Yield padded batches of sequences of similar length.

    Args:
      sequences: token ids.
      batch_size: B.
      max_length: the longest sequence. Sequences are sorted into lengths by powers of two from 32 on. T is the
        longest one of its group, rounded up to a multiple of 8.
      side: padding side, ``"right"`` or ``"left"``.

    Raises:
      InputError: if a sequence is empty or longer than ``max_length``.
    """
    _check(sequences, batch_size, max_length)
    buckets: dict[int, list[int]] = {}
    for row, ids in enumerate(sequences):
        buckets.setdefault(bucket_length(len(ids), max_length), []).append(row)
    for bucket, members in sorted(buckets.items()):
        length = min(round_up(max(len(sequences[row]) for row in members)), max(bucket, max_length))
        size = batch_size if bucket == SHORTEST else _even(len(members), batch_size)
        for start in range(0, len(members), size):
            rows = members[start : start + size]
            filled = rows + rows[:1] * (size - len(rows))
            tokens, mask = pad([sequences[row] for row in filled], length, side)
            yield Batch(np.asarray(rows), tokens, mask)


def in_order(
    sequences: Sequence[Sequence[int]], *, batch_size: int, max_length: int, side: str = "right"
) -> Iterator[Batch]:
    """Yield padded batches of sequences in the order of their lengths, as few as hold them and of one size.

    Args:
      sequences, batch_size, max_length, side: see ``bucketed``. T is the longest sequence of a batch, rounded up to
        a multiple of 4: less padding, but a shape for most batches.

    Raises:
      InputError: see ``bucketed``.
    """
    _check(sequences, batch_size, max_length)
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    size = -(-len(order) // max(-(-len(order) // batch_size), 1))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        filled = rows + rows[:1] * (size - len(rows))
        length = min(round_up(len(sequences[rows[-1]]), _FINE), max_length)
        tokens, mask = pad([sequences[row] for row in filled], length, side)
        yield Batch(np.asarray(rows), tokens, mask)


def _check(sequences: Sequence[Sequence[int]], batch_size: int, max_length: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    for row, ids in enumerate(sequences):
        if not 0 < len(ids) <= max_length:
            raise InputError(f"row {row}: {len(ids)} tokens; expected 1 to max_length {max_length}")


def _even(count: int, most: int) -> int:
    """Return the size of equal batches: as few as hold ``count`` rows, and with little filling."""
    return min(round_up(-(-count // -(-count // most))), most)


def pad(sequences: Sequence[Sequence[int]], length: int, side: str = "right") -> tuple[np.ndarray, np.ndarray]:
    """Return ``tokens [B, length]`` int32 and ``mask [B, length]`` bool, padded on one side."""
    tokens = np.zeros((len(sequences), length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(sequences):
        part = slice(0, len(ids)) if side == "right" else slice(length - len(ids), length)
        tokens[row, part], mask[row, part] = ids, True
    return tokens, mask


def next_tokens(
    batch: Batch, rows: Sequence[Sequence[int]], starts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token that follows each position of a batch, and which of them count.

    Args:
      batch: of the sequences without their last tokens, padded on the right.
      rows: all sequences, with their last tokens.
      starts: where the tokens that count begin in each sequence, at least 1.

    Returns:
      ``targets [B, T]`` int32 and ``keep [B, T]`` bool.
    """
    targets, mask = pad([rows[row][1:] for row in batch.rows], batch.tokens.shape[1])
    first = np.asarray([starts[row] - 1 for row in batch.rows])
    keep = mask & (np.arange(targets.shape[1]) >= first[:, None])
    missing = [(0, len(batch.tokens) - len(batch.rows)), (0, 0)]
    return np.pad(targets, missing), np.pad(keep, missing)


def check_pairs(prompts: Sequence[str], responses: Sequence[str]) -> None:
    """Raise InputError unless prompts and responses are equally many, at least one, and all texts."""
    if isinstance(prompts, str) or isinstance(responses, str):
        raise InputError("prompts and responses must be lists of texts; found a single text")
    if len(prompts) != len(responses) or not len(prompts):
        raise InputError(
            f"{len(prompts)} prompts and {len(responses)} responses; expected equal numbers of at least one"
        )
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not isinstance(prompt, str) or not isinstance(response, str):
            kinds = f"{type(prompt).__name__} and {type(response).__name__}"
            raise InputError(f"row {row}: prompt and response are {kinds}; expected text")
