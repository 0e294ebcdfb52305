"""A model that answers prompts greedily and tells how likely it finds given answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.evaluation.batching import bucketed
from nlsr_jax.evaluation.responses import continue_tokens, end_tokens
from nlsr_jax.models.likelihood import log_likelihood
from nlsr_jax.types import Params, Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.models.llama import Llama


class ModelRespondent(NamedTuple):
    """A model with an adapter.

    Attributes:
      model, params: from ``load_model``.
      tokenizer: knows an end token.
      adapter: LoRA adapter to apply; None for the base alone.
      length: tokens of an answer.
      max_length: longest prompt in tokens.
      batch_size: prompts per batch.
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
        return continue_tokens(
            self.model,
            self.params,
            prompts,
            adapter=self.adapter,
            eos_id=end_tokens(self.model, self.tokenizer),
            max_new_tokens=self.length,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )

    def likelihood(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
        """Return the mean log-likelihood of answers to prompts, both of token ids, in nats."""
        whole = [[*prompt, *answer] for prompt, answer in rows]
        found: list[float] = []
        longest = self.max_length + self.length
        for batch in bucketed(whole, batch_size=self.batch_size, max_length=longest):
            places = np.arange(batch.tokens.shape[1])
            starts = np.array([len(rows[row][0]) for row in batch.rows])
            ends = np.array([len(whole[row]) for row in batch.rows])
            keep = np.zeros(batch.mask.shape, bool)
            keep[: len(batch.rows)] = (places >= starts[:, None] - 1) & (places < ends[:, None] - 1)
            targets = np.roll(batch.tokens, -1, axis=1)
            values = log_likelihood(
                self.model,
                self.params,
                batch.tokens,
                targets,
                keep,
                adapter=self.adapter,
                attention_mask=batch.mask,
            )
            found += np.asarray(values)[: len(batch.rows)].tolist()
        return float(np.mean(found))
