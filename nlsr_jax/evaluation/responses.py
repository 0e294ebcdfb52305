"""Greedy continuations of texts, in batches of few shapes."""

import itertools
from collections.abc import Sequence

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.encoding import encode_prompts
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import bucketed
from nlsr_jax.models.generate import end_ids, generate
from nlsr_jax.models.lora import one_or_several

INSTRUCTION, RESPONSE = "### Instruction:", "### Response:"
_NOISE = "!!!"


def respond(
    model,
    params,
    tokenizer,
    prompts: Sequence[str],
    *,
    adapter: Adapter | Sequence[Adapter] | None = None,
    max_new_tokens: int = 512,
    max_length: int = 2048,
    batch_size: int = 16,
    special_tokens: bool = True,
) -> list:
    """Answer prompts greedily, asked with the tokens that training asks with (``encode_prompts``).

    Args:
      model, params: from ``load_model``.
      tokenizer: a transformers tokenizer.
      prompts: rendered texts; see ``nlsr_jax.data.templates.apply_template``.
      adapter: LoRA adapter to run with; None for the base alone. Several answer in one pass over the base.
      max_new_tokens: longest response (the paper: 512 for safety, 200 for tasks).
      max_length: longest prompt in tokens.
      batch_size: prompts at a time.
      special_tokens: let the tokenizer add its own; False where a chat template has written them already.

    Returns:
      One response per prompt, without special tokens; of several adapters a list of them for each. A response is
      cut at the first end token, of the model's or the tokenizer's (``end_tokens``).

    Raises:
      InputError: a prompt that is too long or has a token that the embedding has not, or a setting that cannot
        be used.
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


def end_tokens(model, tokenizer) -> tuple[int, ...]:
    """Return all tokens that end an answer: those that the model's files name, and the tokenizer's."""
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return tuple(sorted({*model.config.end_tokens, *own}))


def _decoded(tokenizer, rows) -> list[str]:
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def continue_tokens(
    model,
    params,
    sequences: Sequence[Sequence[int]],
    *,
    adapter: Adapter | Sequence[Adapter] | None = None,
    eos_id: int | Sequence[int] | None,
    max_new_tokens: int,
    max_length: int,
    batch_size: int,
) -> list:
    """Continue token sequences greedily; what follows a row's first end token is left out, the end token with it.

    Args:
      model, params, adapter, max_new_tokens, max_length, batch_size: as for ``respond``.
      sequences: token ids.
      eos_id: the end token or tokens; None to go on to the end.

    Returns:
      New tokens of every sequence; of several adapters a list of them for each.
    """
    adapter = one_or_several(adapter)
    ends = end_ids(eos_id)
    count = len(adapter) if isinstance(adapter, tuple) else 1
    made: list[list[list[int]]] = [[[] for _ in sequences] for _ in range(count)]
    for batch in bucketed(sequences, batch_size=batch_size, max_length=max_length, side="left"):
        out = generate(
            model,
            params,
            batch.tokens,
            adapter=adapter,
            attention_mask=batch.mask,
            max_new_tokens=max_new_tokens,
            eos_id=ends,
        )
        for rows, found in zip(made, np.asarray(out).reshape(count, len(batch.tokens), -1).tolist(), strict=True):
            for row, new in zip(batch.rows, found, strict=False):
                rows[row] = list(itertools.takewhile(lambda token: token not in ends, new))
    return made if isinstance(adapter, tuple) else made[0]


def clean_response(text: str) -> str:
    """Cut a response as the paper's safety evaluation does: where it writes a prompt's end again, and at ``!!!``.

    >>> clean_response(" Stir it.!!!!!!")
    'Stir it.'
    """
    return text.split(RESPONSE)[0].strip().split(_NOISE)[0]


def first_tokens(tokenizer, text: str, count: int | None) -> str:
    """Return the part of a text that its first ``count`` tokens spell; all of it for None.

    Raises:
      InputError: a count below 1.
    """
    if count is None:
        return text
    if count < 1:
        raise InputError(f"count is {count}; expected at least 1 token, or None")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= count else tokenizer.decode(ids[:count], skip_special_tokens=True)
