"""Greedy continuation of texts, in batches of a few shapes."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.encoding import encode_prompts
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import bucketed, in_order
from nlsr_jax.models.generate import Ready, end_ids, generate, make_ready, shares_prefix
from nlsr_jax.models.lora import one_or_several
from nlsr_jax.models.shared_prefix import WORTH
from nlsr_jax.types import Params, Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.models.llama import Llama

INSTRUCTION, RESPONSE = "### Instruction:", "### Response:"
_NOISE = "!!!"
_LARGE = 2**25
"""Bytes of a base from which on its weights are merged and joined once for all batches."""


def respond(
    model: "Llama",
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    adapter: Adapter | Sequence[Adapter] | None = None,
    max_new_tokens: int = 512,
    max_length: int = 2048,
    batch_size: int = 16,
    special_tokens: bool = True,
) -> list:
    """Answer prompts greedily, with the same prompt tokens as in training (``encode_prompts``).

    Args:
      model, params: from ``load_model``.
      tokenizer: a transformers tokenizer.
      prompts: rendered texts; see ``nlsr_jax.data.templates.apply_template``.
      adapter: LoRA adapter to apply; None for the base alone. Several adapters share one pass over the base.
      max_new_tokens: longest response (the paper: 512 for safety, 200 for tasks).
      max_length: longest prompt in tokens.
      batch_size: prompts per batch.
      special_tokens: let the tokenizer add its special tokens; False if a chat template has already added them.

    Returns:
      One response per prompt, without special tokens; with several adapters, one such list per adapter. A
      response ends at the first end token of the model or the tokenizer (``end_tokens``).

    Raises:
      InputError: if a prompt is too long or has a token outside the embedding, or a setting is invalid.
    """
    adapter = one_or_several(adapter)
    vocabulary = len(params["embed"])
    ids = encode_prompts(prompts, tokenizer, special_tokens=special_tokens, vocabulary=vocabulary)
    made = continue_tokens(
        model,
        params,
        ids,
        adapter=adapter,
        eos_id=end_tokens(model, tokenizer),
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        batch_size=batch_size,
    )
    if isinstance(adapter, tuple):
        return [_decoded(tokenizer, rows) for rows in made]
    return _decoded(tokenizer, made)


def shared_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all of several sequences share, each with one behind them; 0 for too few."""
    if len(sequences) < 2:
        return 0
    least, most = min(map(list, sequences)), max(map(list, sequences))
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False)))
    found = min(same, min(map(len, sequences)) - 1)
    return found if found >= WORTH else 0


def end_tokens(model: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return all tokens that end an answer: those named in the model's files, and the tokenizer's."""
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return tuple(sorted({*model.config.end_tokens, *own}))


def _decoded(tokenizer, rows) -> list[str]:
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def continue_tokens(
    model: "Llama",
    params: Params,
    sequences: Sequence[Sequence[int]],
    *,
    adapter: Adapter | Sequence[Adapter] | None = None,
    eos_id: int | Sequence[int] | None,
    max_new_tokens: int,
    max_length: int,
    batch_size: int,
) -> list:
    """Continue token sequences greedily; each row ends before its first end token.

    Args:
      model, params, adapter, max_new_tokens, max_length, batch_size: as for ``respond``.
      sequences: token ids.
      eos_id: the end token or tokens; None to generate ``max_new_tokens``.

    Returns:
      New tokens of each sequence; with several adapters, one such list per adapter.
    """
    adapter = one_or_several(adapter)
    ends, several = end_ids(eos_id), isinstance(adapter, tuple)
    count = len(adapter) if isinstance(adapter, tuple) else 1
    made: list[list[list[int]]] = [[[] for _ in sequences] for _ in range(count)]
    fits = max(map(len, sequences), default=0) <= max_length
    shared = shared_beginning(sequences) if fits and shares_prefix(model) else 0
    prefix, rest = (sequences[0][:shared], [ids[shared:] for ids in sequences]) if shared else (None, sequences)
    order = in_order if shared else bucketed
    batches = list(order(rest, batch_size=batch_size, max_length=max_length - shared, side="left"))
    ready: Params | Ready = params
    if len(batches) > 1 and sum(leaf.nbytes for leaf in jax.tree.leaves(params)) >= _LARGE:
        positions = max(batch.tokens.size + len(batch.tokens) * max_new_tokens for batch in batches)
        ready, adapter = make_ready(model, params, adapter, positions=positions), None
    for batch in batches:
        out = generate(
            model,
            ready,
            batch.tokens,
            adapter=adapter,
            attention_mask=batch.mask,
            max_new_tokens=max_new_tokens,
            eos_id=ends,
            prefix=prefix,
        )
        for rows, found in zip(made, np.asarray(out).reshape(count, len(batch.tokens), -1).tolist(), strict=True):
            for row, new in zip(batch.rows, found, strict=False):
                rows[row] = list(itertools.takewhile(lambda token: token not in ends, new))
    return made if several else made[0]


def clean_response(text: str) -> str:
    """Cut a response as the paper's safety evaluation does: where it repeats a prompt's end, and at ``!!!``.

    >>> clean_response(" Stir it.!!!!!!")
    'Stir it.'
    """
    return text.split(RESPONSE)[0].strip().split(_NOISE)[0]


def first_tokens(tokenizer: Tokenizer, text: str, count: int | None) -> str:
    """Return the text of the first ``count`` tokens; the whole text for None.

    Raises:
      InputError: if count is below 1.
    """
    if count is None:
        return text
    if count < 1:
        raise InputError(f"count is {count}; expected at least 1 token, or None")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= count else tokenizer.decode(ids[:count], skip_special_tokens=True)
