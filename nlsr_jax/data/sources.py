"""Load a data set by name, from the hub or from local files with the same columns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from nlsr_jax.data import safety_sets, task_sets, tiny_sets
from nlsr_jax.data.benchmarks import BENCHMARKS, Benchmark
from nlsr_jax.data.collecting import Loaded, collect
from nlsr_jax.data.places import open_rows
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.row_values import Row
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer


class DataSet(NamedTuple):
    """A data set that can be loaded by name.

    Attributes:
      convert: makes an example from a row and a function that renders prompts.
      hub: its name on the Hugging Face hub; empty if it is not public there.
      config: its configuration on the hub.
      train, test: the splits with training rows and with labelled test rows; the same split if a set is only
        for testing (or, like Alpaca, only for training).
      reading: options of the hub's reader of CSV files; ``names`` are the columns of files without a header.
    """

    convert: Callable
    hub: str = ""
    config: str | None = None
    train: str = "train"
    test: str = "test"
    reading: Mapping[str, Any] = {}


def _benchmark(one: Benchmark) -> DataSet:
    return DataSet(one.convert, one.hub, one.config, one.split, one.split, one.reading)


_BEAVERTAILS = "PKU-Alignment/BeaverTails"
_THIRTY: dict[str, Any] = {"train": "30k_train", "test": "30k_test"}
_SAFE_RLHF = "PKU-Alignment/PKU-SafeRLHF-30K"
_VALIDATION: dict[str, Any] = {"train": "validation", "test": "validation"}
_ONLY_TEST: dict[str, Any] = {"train": "test", "test": "test"}

DATA_SETS: dict[str, DataSet] = {
    "beavertails_safe": DataSet(safety_sets.beavertails_safe, _BEAVERTAILS, **_THIRTY),
    "beavertails_harmful": DataSet(safety_sets.beavertails_harmful, _BEAVERTAILS, **_THIRTY),
    "safe_rlhf": DataSet(safety_sets.safe_rlhf, _SAFE_RLHF),
    **{name: _benchmark(one) for name, one in BENCHMARKS.items()},
    "sst2": DataSet(task_sets.sst2, "stanfordnlp/sst2", test="validation"),
    "ag_news": DataSet(task_sets.ag_news, "fancyzhx/ag_news"),
    "gsm8k": DataSet(task_sets.gsm8k, "openai/gsm8k", "main"),
    "alpaca": DataSet(task_sets.alpaca_rows, "tatsu-lab/alpaca", test="train"),
    "tiny_hellaswag": DataSet(tiny_sets.hellaswag, "tinyBenchmarks/tinyHellaswag", **_VALIDATION),
    "tiny_mmlu": DataSet(tiny_sets.mmlu, "tinyBenchmarks/tinyMMLU", "all", **_ONLY_TEST),
    "tiny_truthful_qa": DataSet(
        tiny_sets.truthful_qa, "tinyBenchmarks/tinyTruthfulQA", "multiple_choice", **_VALIDATION
    ),
    "tiny_truthful_qa_mc2": DataSet(
        tiny_sets.truthful_qa_mc2, "tinyBenchmarks/tinyTruthfulQA", "multiple_choice", **_VALIDATION
    ),
    "tiny_winogrande": DataSet(
        tiny_sets.winogrande, "tinyBenchmarks/tinyWinogrande", "winogrande_xl", **_VALIDATION
    ),
    "tiny_arc": DataSet(tiny_sets.arc, "tinyBenchmarks/tinyAI2_arc", "ARC-Challenge", **_ONLY_TEST),
    "tiny_gsm8k": DataSet(tiny_sets.gsm8k, "tinyBenchmarks/tinyGSM8k", "main", **_ONLY_TEST),
}


def load(
    name: str | DataSet,
    source: str | None = None,
    *,
    split: str | None = None,
    count: int | None = None,
    strict: bool = False,
    template: str = "alpaca",
    tokenizer: Tokenizer | None = None,
) -> Loaded:
    """Load the first rows of a data set, in file order.

    Args:
      name: one of ``DATA_SETS``, or a data set.
      source: a local file or directory with the set's columns, or a hub name; by default the set's own
        hub name. See ``open_rows``.
      split: by default the set's training split; ``DATA_SETS[name].test`` names the test split.
      count: number of rows to take; None for all usable rows.
      strict: raise at the first bad row; otherwise bad rows are skipped, counted and named.
      template: how prompts are rendered; see ``nlsr_jax.data.templates``.
      tokenizer: a transformers tokenizer, required by chat templates.

    Returns:
      A ``Loaded`` of ``Example``, ``Preference`` (``safe_rlhf``) or ``Question`` (``tiny_*`` except GSM8K).

    Raises:
      InputError: if the name is unknown, the source unreadable, rows too few, or a row bad when ``strict``.
    """
    data_set = find(name) if isinstance(name, str) else name
    render = make_render(template, tokenizer)
    place, rows = _open(data_set, source, split)
    return collect(rows, lambda row: data_set.convert(row, render), place, count=count, strict=strict)


def load_kto(
    source: str | None = None,
    *,
    safe: int = 1000,
    unsafe: int = 1000,
    split: str | None = None,
    strict: bool = False,
    template: str = "alpaca",
    tokenizer: Tokenizer | None = None,
) -> Loaded:
    """Load desirable (kind ``"safe"``) and undesirable (kind ``"harmful"``) answers for KTO.

    One pass over PKU-SafeRLHF rows in file order; ``KtoQuota`` describes the rule.

    Args:
      source: as in ``load``.
      safe: number of safe answers.
      unsafe: number of unsafe answers.
      split, strict, template, tokenizer: as in ``load``.

    Returns:
      A ``Loaded`` of ``safe + unsafe`` examples.

    Raises:
      InputError: as in ``load``.
    """
    if min(safe, unsafe) < 0:
        raise InputError(f"KTO quotas are {safe} and {unsafe}; expected numbers of at least 0")
    quota = safety_sets.KtoQuota(safe, unsafe)
    render = make_render(template, tokenizer)
    place, rows = _open(find("safe_rlhf"), source, split)
    return collect(
        rows,
        lambda row: quota(row, render),
        place,
        count=safe + unsafe,
        strict=strict,
        missing=quota.missing,
    )


def find(name: str) -> DataSet:
    """Return the data set of a name.

    Raises:
      InputError: if the name is unknown.
    """
    if name not in DATA_SETS:
        raise InputError(f"unknown data set {name!r}; expected one of {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def _open(data_set: DataSet, source: str | None, split: str | None) -> tuple[str, Iterator[Row]]:
    """Return the name of a data set's source for messages, and its rows."""
    place = source or data_set.hub
    if not place:
        raise InputError("the data set is not public on the hub; give a local file")
    return place, open_rows(place, split or data_set.train, data_set.config, data_set.reading)
