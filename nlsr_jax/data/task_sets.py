"""Task data sets: SST-2, AG News, GSM8K and Alpaca rows as examples.

Each set may come with the hub's columns or in instruction form (``instruction``, ``input``, ``output``), where
the instruction may already be a rendered Alpaca prompt, as in third-party training files. Such files may be
poisoned: rows with ``flag`` ``"unsafe"`` become harmful examples without a label.

Source: the paper's task instructions and targets, as in the authors' scripts.
"""

import re
from collections.abc import Callable

from nlsr_jax.data.examples import Example
from nlsr_jax.data.prompts import AG_NEWS, GSM8K_SUFFIX, SST2, Render, looks_rendered, parse_alpaca
from nlsr_jax.data.row_values import BadRow, Row

SST2_LABELS = ("negative", "positive")
AG_NEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")
ANSWER_PHRASE = "The final answer is:"
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)")


def sst2(row: Row, render: Render) -> Example:
    """Make an example from an SST-2 row (``sentence``, ``label``)."""
    if row.has("instruction"):
        return _instruction_row(row, render, _one_of(SST2_LABELS))
    label = SST2_LABELS[row.integer("label", range(2))]
    return Example(render(SST2, row.text("sentence")), label, label=label)


def ag_news(row: Row, render: Render) -> Example:
    """Make an example from an AG News row (``text``, ``label``)."""
    if row.has("instruction"):
        return _instruction_row(row, render, _one_of(AG_NEWS_LABELS))
    label = AG_NEWS_LABELS[row.integer("label", range(4))]
    return Example(render(AG_NEWS, row.text("text")), label, label=label)


def gsm8k(row: Row, render: Render) -> Example:
    """Make an example from a GSM8K row (``question``, ``answer``); the label is the final number."""
    if row.has("instruction"):
        return _instruction_row(row, render, _final_number)
    answer = row.text("answer").replace("####", f"{ANSWER_PHRASE} ")
    label = _final_number("answer", answer)
    return Example(render(row.text("question") + GSM8K_SUFFIX, ""), answer, label=label)


def alpaca_rows(row: Row, render: Render) -> Example:
    """Make a benign example from an Alpaca row (``instruction``, ``input``, ``output``)."""
    return _instruction_row(row, render, lambda column, text: "")._replace(kind="benign")


def _instruction_row(row: Row, render: Render, read_label: Callable[[str, str], str]) -> Example:
    instruction = row.text("instruction")
    context = row.text("input", blank=True) if row.has("input") else ""
    if looks_rendered(instruction):
        parsed = parse_alpaca(instruction)
        if parsed is None:
            raise BadRow("instruction", "begins like an Alpaca prompt but is not a complete one")
        if context:
            raise BadRow("input", "is not empty although the instruction is a rendered prompt")
        instruction, context = parsed
    output = row.text("output")
    if row.values.get("flag") == "unsafe":
        return Example(render(instruction, context), output, "harmful")
    return Example(render(instruction, context), output, label=read_label("output", output))


def _one_of(labels: tuple[str, ...]) -> Callable[[str, str], str]:
    def read_label(column: str, text: str) -> str:
        if text not in labels:
            raise BadRow(column, f"is not one of {', '.join(labels)}")
        return text

    return read_label


def _final_number(column: str, text: str) -> str:
    """Return the number after the answer phrase, without thousands separators."""
    _, phrase, answer = text.rpartition(ANSWER_PHRASE)
    number = answer.replace(",", "").replace("$", "").strip()
    if not phrase or not _NUMBER.fullmatch(number):
        raise BadRow(column, f"has no number after '####' or {ANSWER_PHRASE!r}")
    return number
