"""The first tokens of greedy answers of a model whose layers are streamed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.measures import measured
from nlsr_jax.data.calibration import round_up
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import prepare
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.models.token_log_probabilities import likeliest


class StreamedAnswers(NamedTuple):
    """A model whose layers are streamed, asked for the first tokens of its greedy answers.

    Every token takes one pass over the base.

    Attributes:
      model, params, adapter: from ``stream_model``; the adapter to run with.
      ends: tokens that end an answer.
      length: most tokens of an answer.
      batch_size: prompts in one batch.
    """

    model: Llama
    params: StreamedParams
    adapter: Adapter | None
    ends: Sequence[int]
    length: int
    batch_size: int

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the first tokens of the greedy answers to prompts of token ids."""
        texts = [list(prompt) for prompt in prompts]
        going, width = [*texts], round_up(max(map(len, texts), default=0) + self.length)
        for _ in range(self.length):
            if not going:
                break
            found = self._next(going, width)
            going = [text for text, token in zip(going, found, strict=True) if token not in self.ends]
            for text, token in zip(going, (one for one in found if one not in self.ends), strict=True):
                text.append(token)
        return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]

    def _next(self, texts: list[list[int]], width: int) -> list[int]:
        """Return the likeliest next token of each text."""
        starts = range(0, len(texts), self.batch_size)
        batches = [self._batch(texts[start : start + self.batch_size], width) for start in starts]
        lora = prepare(self.model, self.adapter)
        found = [np.asarray(one) for one in measured(_likeliest, self.model, self.params, [lora], (), batches)]
        return np.concatenate(found)[: len(texts)].tolist()

    def _batch(self, texts: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.zeros((self.batch_size, width), np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        last = [len(text) - 1 for text in texts] + [0] * (self.batch_size - len(texts))
        return tokens, np.array(last, np.int32)


def _likeliest(model, params, states, given, batch):
    (hidden,), (_, places) = states, batch
    return likeliest(model, params, hidden, places)
