"""The least time of a realignment's products on this machine; see ``benchmarks.limits``."""

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.limits import Limit, Product, forward_products, in_dtype, of_products
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.calibration.wording import BEGINNING, LENGTH

_AT_ONCE = 96
"""Prompts that are answered in one batch."""


class Rows(NamedTuple):
    """Tokens of the rows and prompts that a realignment reads, without their common beginning.

    Attributes:
      prompts, responses: of every calibration row.
      harmless: of every harmless prompt.
    """

    prompts: Sequence[int]
    responses: Sequence[int]
    harmless: Sequence[int]


def count_tokens(folder: pathlib.Path, base: pathlib.Path) -> Rows:
    """Count the tokens of ``calibration.jsonl`` and ``harmless.jsonl``, as a chat model reads them."""
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.data.prompts import make_render
    from nlsr_jax.evaluation.responses import shared_beginning

    tokenizer = load_tokenizer(base)
    render = make_render("chat", tokenizer)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rows, harmless = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("calibration", "harmless")
    )
    prompts = [ids(render(row["prompt"], "")) for row in [*rows, *harmless]]
    common = shared_beginning(prompts)
    sizes = [len(prompt) - common for prompt in prompts]
    return Rows(sizes[: len(rows)], [len(ids(row["response"])) + 1 for row in rows], sizes[len(rows) :])


def published_limit(config: ModelConfig, rows: Rows, dtype: str = "float32") -> Limit:
    """Return the limit of the published algorithm: every calibration row goes through the layers once.

    Args:
      config: configuration of the base.
      rows: see ``Rows``.
      dtype: of the base.
    """
    products = forward_products(config, sum(rows.prompts) + sum(rows.responses), head_rows=0)
    return of_products(in_dtype(products, dtype))


def refined_limit(config: ModelConfig, rows: Rows, trials: int, likelihoods: int, dtype: str = "float32") -> Limit:
    """Return the limit of a refined realignment whose calibration rows keep their answers.

    Both models' losses are taken on half of the rows, and the gradients on both halves: forward, and by the inputs.
    Two models and every trial answer the prompts of the other half and the harmless ones.

    Args:
      config: configuration of the base.
      rows: see ``Rows``.
      trials: shares that were tried.
      likelihoods: how often the likelihood of refusals was measured.
      dtype: of the base.
    """
    asked = [*rows.prompts[1::2], *rows.harmless]
    batches = -(-len(asked) // _AT_ONCE)
    width, models = round(len(asked) / batches), 2 + trials
    read = width * round(statistics.fmean(asked))
    half = len(rows.prompts) // 2
    texts = [prompt + response for prompt, response in zip(rows.prompts, rows.responses, strict=True)]
    losses = forward_products(config, sum(texts[::2]), head_rows=sum(rows.responses[::2]), times=2)
    gradients = forward_products(config, sum(texts) // 2, head_rows=sum(rows.responses) // 2, times=4)
    prompts = forward_products(config, read, head_rows=width, times=models * batches)
    answers = forward_products(config, width, times=models * batches * (LENGTH - 1))
    refusals = forward_products(
        config, sum(rows.prompts[1::2]) + BEGINNING * half, head_rows=BEGINNING * half, times=likelihoods
    )
    products: list[Product] = [*losses, *gradients, *prompts, *answers, *refusals]
    return of_products(in_dtype(products, dtype))
