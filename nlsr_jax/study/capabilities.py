"""The six tinyBenchmarks, asked and scored as in the evaluation harness, and estimated with an item bank.

Each set has its own few-shot prompts (``input_formatted``); rows without one are asked without examples.

Source: Maia Polo et al. 2024, "tinyBenchmarks", and its tasks in the lm-evaluation-harness. As there, each
benchmark is estimated separately: the published MMLU items have their own bank, so the ability cannot be fitted to
all six sets together. Deviations: see ``multiple_choice``; GSM8K reads the last number of an answer (or the one
after ``The final answer is:``), as this project's own scoring does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.data import tiny_sets
from nlsr_jax.data.sources import DATA_SETS, load
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.item_bank import ItemBank, load_banks
from nlsr_jax.evaluation.multiple_choice import Question, answer_choices, score_choices
from nlsr_jax.evaluation.responses import respond
from nlsr_jax.evaluation.tasks import score
from nlsr_jax.evaluation.tiny_benchmarks import anchors_of, estimate
from nlsr_jax.study.stages import Base

MAX_LENGTH = 4096
"""Longest prompt in tokens; prompts with 25 examples have about 2,000."""
NUMBER_TOKENS = 256
_NEXT_QUESTION = "Question:"


class Benchmark(NamedTuple):
    """How to ask one benchmark.

    Attributes:
      data_set: its name in ``DATA_SETS``.
      metric: field of ``ChoiceScores``; empty if the answer is a number in free text.
      pose: makes a question with contexts from a row.
    """

    data_set: str
    metric: str = ""
    pose: Callable[[tiny_sets.Question], Question] | None = None


class Asked(NamedTuple):
    """One benchmark, ready to be asked.

    Attributes:
      name: name of the benchmark.
      scenario: its name in the bank.
      bank: its item bank.
      rows: one row per anchor of the bank, in the bank's order.
    """

    name: str
    scenario: str
    bank: ItemBank
    rows: Sequence[Any]


def _question(row: tiny_sets.Question, context: str, choices: tuple[str, ...] | None = None) -> Question:
    right = tuple(i in row.right for i in range(len(row.choices)))
    return Question((row.formatted or context,), choices or row.choices, right)


def pose_hellaswag(row: tiny_sets.Question) -> Question:
    """Continue a description."""
    return _question(row, row.question)


def pose_arc(row: tiny_sets.Question) -> Question:
    """Answer with the text of a choice."""
    return _question(row, f"Question: {row.question}\nAnswer:")


def pose_mmlu(row: tiny_sets.Question) -> Question:
    """Answer with the letter of a choice."""
    letters = tuple(chr(ord("A") + i) for i in range(len(row.choices)))
    lines = [f"{letter}. {text}" for letter, text in zip(letters, row.choices, strict=True)]
    subject = f" about {row.subject.replace('_', ' ')}" if row.subject else ""
    head = f"The following are multiple choice questions (with answers){subject}.\n\n"
    return _question(row, head + "\n".join([row.question.strip(), *lines, "Answer:"]), letters)


def pose_truthfulqa(row: tiny_sets.Question) -> Question:
    """Answer with the text of a choice; several may be true."""
    return _question(row, f"Q: {row.question}\nA:")


def pose_winogrande(row: tiny_sets.Question) -> Question:
    """Rate the same continuation after each way to fill the gap of a sentence.

    Only the last paragraph of a few-shot prompt belongs to the row itself. If it begins like the sentence, it is
    removed, because each choice has its own version of it.
    """
    before, _, rest = row.question.partition("_")
    examples, _, own = row.formatted.rpartition("\n\n")
    if not own.strip().startswith(before.strip()):
        examples = row.formatted
    start = f"{examples}\n\n" if examples else ""
    right = tuple(i in row.right for i in range(len(row.choices)))
    contexts = tuple(start + before + choice for choice in row.choices)
    return Question(contexts, (rest.strip(),) * len(row.choices), right)


BENCHMARKS = {
    "hellaswag": Benchmark("tiny_hellaswag", "acc_norm", pose_hellaswag),
    "mmlu": Benchmark("tiny_mmlu", "acc", pose_mmlu),
    "truthfulqa": Benchmark("tiny_truthful_qa_mc2", "mc2", pose_truthfulqa),
    "winogrande": Benchmark("tiny_winogrande", "acc", pose_winogrande),
    "arc": Benchmark("tiny_arc", "acc_norm", pose_arc),
    "gsm8k": Benchmark("tiny_gsm8k"),
}
_OTHER_NAMES = {"harness_truthfulqa_mc_0": "truthfulqa"}


def read_banks(path: str) -> dict[str, tuple[str, ItemBank]]:
    """Read the item banks of an ``.npz`` file.

    Args:
      path: a file of ``save_banks``. If two banks have a scenario, such as MMLU, the later bank is used.

    Returns:
      ``{benchmark: (scenario, bank)}`` in the order of ``BENCHMARKS``; scenario is the bank's own name.

    Raises:
      InputError: if the file cannot be read, or has none of the benchmarks.
    """
    banks = load_banks(path).values()
    found = {_OTHER_NAMES.get(name, name): (name, bank) for bank in banks for name in bank.scenarios}
    if not set(found) & set(BENCHMARKS):
        raise InputError(f"{path}: has {', '.join(found)}; expected some of {', '.join(BENCHMARKS)}")
    return {name: found[name] for name in BENCHMARKS if name in found}


def load_benchmarks(
    path: str,
    sources: Mapping[str, str],
    names: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Asked]:
    """Load item banks and the questions for their anchors.

    Args:
      path: see ``read_banks``.
      sources: file or directory by data set name; other sets come from the hub.
      names: the benchmarks to ask; None for all in the banks.
      note: called with one line about each set with a peculiarity.

    Raises:
      InputError: if a name is unknown, a file cannot be read, a row is bad, or there is not one row per anchor of
        the bank. Bad rows are not skipped, because the position of a row identifies its item.
    """
    banks = read_banks(path)
    unknown = [name for name in names or () if name not in banks]
    if unknown:
        raise InputError(f"{path}: no benchmark {unknown[0]!r}; expected some of {', '.join(banks)}")
    asked = []
    for name in banks if names is None else dict.fromkeys(names):
        scenario, bank = banks[name]
        data_set = BENCHMARKS[name].data_set
        place, split = sources.get(data_set), DATA_SETS[data_set].test
        rows = load(data_set, place, split=split, strict=True, template="none").rows
        anchors = len(anchors_of(bank, scenario))
        if len(rows) != anchors:
            raise InputError(
                f"{place or DATA_SETS[data_set].hub}: {len(rows)} rows, but {path} has {anchors} items of {name}; "
                "give the complete set that belongs to the bank, in its order"
            )
        if name == "mmlu" and len(bank.scenarios) > 1:
            note(f"{path}: one bank for MMLU and other benchmarks; the published tinyMMLU has a bank of its own")
        if any(isinstance(row, tiny_sets.Question) and not row.formatted for row in rows):
            note(f"{data_set}: some rows have no input_formatted and are asked without examples")
        asked.append(Asked(name, scenario, bank, rows))
    return asked


def run_benchmarks(
    base: Base, adapter: Adapter | None, asked: Sequence[Asked], *, batch_size: int
) -> dict[str, dict[str, float]]:
    """Ask benchmarks and estimate the scores on the full benchmarks.

    Args:
      base: the base.
      adapter: adapter to apply; None for the base alone.
      asked: from ``load_benchmarks``.
      batch_size: sequences per batch.

    Returns:
      ``{benchmark: {"measured", "irt", "p_irt", "gp_irt"}}``, in [0, 1]: the mean score of the items asked, and
      the fields of ``Estimate``.
    """
    found = {}
    for name, scenario, bank, rows in asked:
        scores = ask(base, adapter, name, rows, batch_size=batch_size)
        guess = estimate(bank, {scenario: scores}).scenarios[scenario]
        found[name] = {
            "measured": float(np.mean(scores)),
            "irt": guess.irt,
            "p_irt": guess.p_irt,
            "gp_irt": guess.gp_irt,
        }
    return found


def ask(base: Base, adapter: Adapter | None, name: str, rows: Sequence[Any], *, batch_size: int) -> np.ndarray:
    """Ask one benchmark and score it with its own rule.

    Args:
      base, adapter, batch_size: see ``run_benchmarks``.
      name: one of ``BENCHMARKS``.
      rows: its rows, from ``load``.

    Returns:
      ``[n]`` float64 in [0, 1], in the order of the rows.
    """
    benchmark = BENCHMARKS[name]
    model = (base.model, base.params, base.tokenizer)
    shared: dict[str, Any] = {
        "adapter": adapter,
        "max_length": MAX_LENGTH,
        "batch_size": batch_size,
        "special_tokens": False,
    }
    if benchmark.pose is None:
        prompts = [row.prompt for row in rows]
        responses = respond(*model, prompts, max_new_tokens=NUMBER_TOKENS, **shared)
        cut = [text.split(_NEXT_QUESTION)[0] for text in responses]
        return score("gsm8k", cut, [row.label for row in rows]).correct.astype(np.float64)
    questions = [benchmark.pose(row) for row in rows]
    chances = answer_choices(*model, questions, **shared)
    return getattr(score_choices(questions, chances), benchmark.metric)
