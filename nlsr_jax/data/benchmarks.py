"""Public benchmarks of harm and of over-refusal: their columns, where they are published, and which rows count.

A benchmark is read from the hub or from a file of the same columns. This project contains none of their rows.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nlsr_jax.data.collecting import Loaded
from nlsr_jax.data.examples import Example
from nlsr_jax.data.prompts import Render
from nlsr_jax.data.row_values import BadRow, Row, UnwantedRow, describe_columns
from nlsr_jax.data.safety_sets import beavertails_prompts
from nlsr_jax.errors import InputError

HARMFUL, BENIGN = "harmful", "benign"
_SAFE, _UNSAFE, _CONTRAST = "safe", "unsafe", "contrast_"


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a benchmark's rows; calling it turns a row into a request.

    Attributes:
      kind: of its requests, ``HARMFUL`` or ``BENIGN``.
      prompt: columns that may hold the request; the first one that a row has is read.
      topic: columns that may hold its topic.
      context: columns that may hold a text that the request is about.
      left_out: returns why a row is not asked; None if it is asked.
    """

    kind: str
    prompt: tuple[str, ...]
    topic: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    left_out: Callable[[Row], str | None] = lambda _: None

    def __call__(self, row: Row, render: Render) -> Example:
        """Turn a row into a request without an answer.

        Raises:
          BadRow: if a column is missing or holds no text.
          UnwantedRow: if the row is not asked.
        """
        column = _first(row, self.prompt)
        if column is None:
            names = " or ".join(map(repr, self.prompt))
            raise BadRow("", f"no column {names} holds a request", describe_columns(row.values))
        if reason := self.left_out(row):
            raise UnwantedRow(reason)
        text, context, topic = row.text(column), _first(row, self.context), _first(row, self.topic)
        if context is not None:  # as HarmBench shows it
            text = f"{row.text(context)}\n\n---\n\n{text}"
        return Example(render(text, ""), "", self.kind, categories=() if topic is None else (row.text(topic),))


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
      kind: of its requests, ``HARMFUL`` or ``BENIGN``.
      convert: turns a row into a request.
      hub: its name on the Hugging Face hub.
      config, split: its configuration and split there.
      judge: the judge that its authors publish figures with; None if it is the wording of refusals, or if this
        project does not have it.
      reading: options of the hub's reader of CSV files; ``names`` are the columns of files without a header.
    """

    kind: str
    convert: Callable[[Row, Render], Example]
    hub: str
    config: str | None = None
    split: str = "train"
    judge: str | None = None
    reading: Mapping[str, Any] = {}


def _first(row: Row, columns: tuple[str, ...]) -> str | None:
    """Return the first column that has a value other than an empty text."""
    return next((name for name in columns if row.values.get(name) not in (None, "")), None)


def _choice(column: str, kept: str, others: tuple[str, ...]) -> Callable[[Row], str | None]:
    """Return a rule: rows whose column has one of several words are asked if it is ``kept``."""

    def left_out(row: Row) -> str | None:
        word = row.text(column).strip().lower()
        if word not in (kept, *others):
            raise BadRow(column, f"is not one of {', '.join((kept, *others))}")
        return None if word == kept else word

    return left_out


def _labelled(kept: str) -> Callable[[Row], str | None]:
    """Return the rule of XSTest, whose older files mark unsafe rows by their type alone."""
    by_label = _choice("label", kept, tuple({_SAFE, _UNSAFE} - {kept}))

    def left_out(row: Row) -> str | None:
        if row.has("label"):
            return by_label(row)
        word = _UNSAFE if row.text("type").startswith(_CONTRAST) else _SAFE
        return None if word == kept else word

    return left_out


def _plain(kind: str, *prompt: str, topic: str = "category", **options: Any) -> Schema:
    return Schema(kind, prompt, (topic,), **options)


def _wild(kind: str) -> Benchmark:
    """Return the adversarial rows of one kind of WildJailbreak's evaluation."""
    names = [f"{style}_{one}" for style in ("adversarial", "vanilla") for one in (HARMFUL, BENIGN)]
    kept = f"adversarial_{kind}"
    rule = _choice("data_type", kept, tuple(name for name in names if name != kept))
    return Benchmark(
        kind,
        Schema(kind, ("adversarial",), left_out=rule),
        "allenai/wildjailbreak",
        "eval",
        judge="wildguard",
        reading={"delimiter": "\t", "keep_default_na": False},
    )


def _jailbreakbench(kind: str, split: str) -> Benchmark:
    schema = _plain(kind, "Goal", topic="Category")
    return Benchmark(kind, schema, "JailbreakBench/JBB-Behaviors", "behaviors", split)


def _xstest(kind: str, kept: str) -> Benchmark:
    schema = _plain(kind, "prompt", topic="type", left_out=_labelled(kept))
    return Benchmark(kind, schema, "walledai/XSTest", split="test")


_HARMBENCH = Schema(
    HARMFUL,
    ("instruction", "Behavior", "prompt"),
    ("SemanticCategory", "category"),
    ("ContextString", "context"),
)

BENCHMARKS: dict[str, Benchmark] = {
    "beavertails_prompts": Benchmark(
        HARMFUL, beavertails_prompts, "PKU-Alignment/BeaverTails", None, "30k_test", "qa_moderation"
    ),
    "harmbench": Benchmark(HARMFUL, _HARMBENCH, "walledai/HarmBench", "standard", judge="harmbench"),
    "strongreject": Benchmark(
        HARMFUL, _plain(HARMFUL, "forbidden_prompt", "prompt"), "walledai/StrongREJECT", judge="strongreject"
    ),
    "jailbreakbench": _jailbreakbench(HARMFUL, "harmful"),
    "hex_phi": Benchmark(
        HARMFUL,
        _plain(HARMFUL, "instruction", "prompt"),
        "LLM-Tuning-Safety/HEx-PHI",
        split="all",
        reading={"header": None, "names": ["prompt"]},
    ),
    "advbench": Benchmark(HARMFUL, _plain(HARMFUL, "goal", "prompt"), "walledai/AdvBench", judge="advbench"),
    "directharm4": Benchmark(HARMFUL, _plain(HARMFUL, "instruction"), "vfleaking/DirectHarm4", split="test"),
    "beavertails_evaluation": Benchmark(
        HARMFUL,
        _plain(HARMFUL, "prompt"),
        "PKU-Alignment/BeaverTails-Evaluation",
        split="test",
        judge="qa_moderation",
    ),
    "wildjailbreak": _wild(HARMFUL),
    "xstest_unsafe": _xstest(HARMFUL, _UNSAFE),
    "xstest": _xstest(BENIGN, _SAFE),
    "or_bench_hard": Benchmark(BENIGN, _plain(BENIGN, "prompt"), "bench-llm/or-bench", "or-bench-hard-1k"),
    "phtest": Benchmark(
        BENIGN,
        Schema(BENIGN, ("Request",), left_out=_choice("Harmfulness", "harmless", ("controversial",))),
        "furonghuang-lab/PHTest",
    ),
    "jailbreakbench_benign": _jailbreakbench(BENIGN, "benign"),
    "wildjailbreak_benign": _wild(BENIGN),
}
"""The benchmarks by name; the over-refusal sets come last."""


def names_of(kind: str) -> tuple[str, ...]:
    """Return the names of the benchmarks with requests of a kind."""
    return tuple(name for name, one in BENCHMARKS.items() if one.kind == kind)


def check_whole(name: str, loaded: Loaded) -> None:
    """Check that all rows of a benchmark have its columns, because a part of a benchmark is another benchmark.

    Raises:
      InputError: if a row lacks them; the message names the first one.
    """
    if loaded.named:
        raise InputError(f"{loaded.named[0]}; the rows do not have the columns of {name}")
