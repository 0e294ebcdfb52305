"""A model that answers prompts greedily and tells how likely it finds given answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.calibration import round_up
from nlsr_jax.evaluation.batching import bucketed, in_order
from nlsr_jax.evaluation.responses import continue_tokens, end_tokens, shared_beginning
from nlsr_jax.models.likelihood import log_likelihood_at
from nlsr_jax.models.shared_prefix import can_share, cut_prefix
from nlsr_jax.types import Params, Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.models.llama import Llama

_STEP = 32
"""Batches have a multiple of so many rows: a few rows more or less take the same compiled program."""


class ModelRespondent(NamedTuple):
    """A model with an adapter.

    Attributes:
      model, params: from ``load_model``.
      tokenizer: knows an end token.
      adapter: LoRA adapter to apply; None for the base alone.
      length: tokens of an answer.
      max_length: longest prompt in tokens.
      batch_size: most prompts in a batch.
    """

    model: "Llama"
    params: Params
    tokenizer: Tokenizer
    adapter: Adapter | None
    length: int
    max_length: int
    batch_size: int

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the first tokens of the greedy answers to prompts of token ids."""
        return self._continued(self.adapter, prompts)

    def answers_up_to(self, length: int, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return ``answers`` of another length."""
        return self._replace(length=length).answers(prompts)

    def each(self, adapters: Sequence[Adapter], prompts: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        """Return ``answers`` with each of several adapters in place of its own, in one pass."""
        return self._continued(adapters, prompts)

    def _continued(self, adapter: Adapter | Sequence[Adapter] | None, prompts: Sequence[Sequence[int]]) -> list:
        return continue_tokens(
            self.model,
            self.params,
            prompts,
            adapter=adapter,
            eos_id=end_tokens(self.model, self.tokenizer),
            max_new_tokens=self.length,
            max_length=self.max_length,
            batch_size=_even(len(prompts), self.batch_size),
        )

    def likelihood(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
        """Return the mean log-likelihood of answers to prompts, both of token ids, in nats."""
        return float(np.mean(self.likelihoods(rows)))

    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Return the log-likelihood of each of several answers to prompts, both of token ids, in nats."""
        whole = [[*prompt, *answer] for prompt, answer in rows]
        found = np.zeros(len(rows), np.float32)
        longest, width = self.max_length + self.length, max(len(answer) for _, answer in rows)
        alike = can_share(self.model) and shared_beginning([prompt for prompt, _ in rows])
        size = _even(len(rows), self.batch_size)
        for batch in (in_order if alike else bucketed)(whole, batch_size=size, max_length=longest):
            chosen = [rows[row] for row in batch.rows] + [((0,), ())] * (len(batch.tokens) - len(batch.rows))
            starts, sizes = (np.array([len(row[part]) for row in chosen])[:, None] for part in (0, 1))
            places, keep = starts + np.arange(width), np.arange(width) < sizes
            targets = np.take_along_axis(batch.tokens, np.where(keep, places, 0), axis=1)
            position = np.arange(batch.tokens.shape[1])
            cut = cut_prefix(self.model, batch.tokens, (position >= starts) & (position < starts + sizes))
            ahead = 0 if cut.prefix is None else len(cut.prefix)
            before = np.where(keep, places - 1 - ahead, 0)
            values = log_likelihood_at(self.model, self.params, cut, before, targets, keep, adapter=self.adapter)
            found[batch.rows] = np.asarray(values)[: len(batch.rows)]
        return found.tolist()


def _even(count: int, most: int) -> int:
    """Return the size of batches that hold ``count`` rows with little filling, at most ``most``.

    >>> _even(125, 96), _even(256, 96), _even(3, 96)
    (64, 96, 32)
    """
    return min(round_up(-(-count // max(-(-count // most), 1)), _STEP), most)
