"""Find the columns of a row that hold the prompt, the answer and the rejected answer.

In order of precedence: the columns that the user names; ``prompt`` and ``response``; PKU-SafeRLHF's two answers;
or exactly one of

- preferences: one of ``PREFERENCES``, with a prompt or a conversation beside the answers or inside them,
- conversations: one of ``CONVERSATIONS``, ending with the answer,
- pairs: one of ``PROMPTS`` (or of ``LAST_PROMPTS``) and one of ``RESPONSES``.

A row that matches several is refused, and the user must say which columns to use.
"""

import dataclasses
from typing import NamedTuple

from nlsr_jax.data.row_values import BadRow, Row, describe_columns
from nlsr_jax.data.turns import Turn, read_turns

PROMPTS = ("prompt", "instruction", "question", "query", "problem")
LAST_PROMPTS = ("input", "user", "human")
"""Prompt columns used only if there is no other; beside another one, ``input`` is its context."""
RESPONSES = ("response", "completion", "output", "answer", "assistant", "reply")
CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "dialogue")
PAIRED = ("response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
PREFERENCES = {
    "chosen": "rejected",
    "preferred_output": "non_preferred_output",
    "chosen_response": "rejected_response",
}


@dataclasses.dataclass(frozen=True)
class Fields:
    """Column names given by the user; None for columns to be detected.

    Attributes:
      prompt: column of the prompt, or of a conversation that ends with the answer.
      response: column of the safe answer.
      rejected: column of the rejected answer.
    """

    prompt: str | None = None
    response: str | None = None
    rejected: str | None = None

    def flags(self) -> dict[str, str]:
        """Return the named columns by flag."""
        found = {f"--{name}_field": column for name, column in dataclasses.asdict(self).items()}
        return {flag: column for flag, column in found.items() if column is not None}


class Shape(NamedTuple):
    """The columns of a row that are used.

    Attributes:
      prompt: column of the prompt or of a whole conversation; empty if the answer's column includes the prompt.
      response: column of the answer; empty if the prompt's column includes it.
      rejected: column of the rejected answer; empty if there is none.
      paired: whether the row has PKU-SafeRLHF's two answers; ``response`` and ``rejected`` are then empty.
    """

    prompt: str
    response: str
    rejected: str = ""
    paired: bool = False

    def describe(self) -> str:
        """Describe the columns that are read.

        >>> Shape("question", "answer").describe()
        "prompts from 'question', answers from 'answer'"
        """
        if self.paired:
            return "prompts from 'prompt', safe answers from 'response_0' and 'response_1'"
        if not self.response:
            return f"conversations from {self.prompt!r}"
        prompt = f"prompts from {self.prompt!r}" if self.prompt else f"prompts inside {self.response!r}"
        rejected = f", rejected ones from {self.rejected!r}" if self.rejected else ""
        return f"{prompt}, answers from {self.response!r}{rejected}"


def find_shape(row: Row, fields: Fields) -> Shape:
    """Find the columns of one row.

    Raises:
      BadRow: if a named column is missing, or the row matches no shape or several.
    """
    for flag, column in fields.flags().items():
        if not row.has(column):
            raise BadRow(column, f"is missing but {flag} names it", describe_columns(row.values))
    rejected = fields.rejected or "".join(_has(row, PREFERENCES.values())[:1])
    if fields == Fields(rejected=fields.rejected):
        if row.has("prompt") and row.has("response"):
            return Shape("prompt", "response", rejected)
        if row.has("prompt") and all(map(row.has, PAIRED)):
            return Shape("prompt", "", "", paired=True)
    return _named(row, fields, rejected) if fields.prompt or fields.response else _found(row, rejected)


def turns_of(row: Row, column: str, *, alone: bool = False) -> tuple[Turn, ...] | None:
    """Return the turns in a column; None if it holds text.

    Args:
      row: the row.
      column: the column.
      alone: whether the column must include the prompt too, so that a transcript counts as turns.
    """
    transcript = alone or column in (*CONVERSATIONS, *PREFERENCES, *PREFERENCES.values())
    return read_turns(column, row.values[column], transcript=transcript)


def _has(row: Row, names) -> list[str]:
    return [name for name in names if row.has(name)]


def _prompts(row: Row) -> list[str]:
    return _has(row, PROMPTS) or _has(row, LAST_PROMPTS)


def _named(row: Row, fields: Fields, rejected: str) -> Shape:
    if fields.prompt and not fields.response:
        if _ends_with_answer(row, fields.prompt):
            return Shape(fields.prompt, "", "")
        answers = [name for name in _has(row, (*RESPONSES, *PREFERENCES)) if name != fields.prompt]
        return Shape(fields.prompt, _only(row, answers, "an answer", "--response_field"), rejected)
    assert fields.response is not None
    if fields.prompt:
        return Shape(fields.prompt, fields.response, rejected)
    places = [name for name in _prompts(row) if name != fields.response]
    places = places or [name for name in _has(row, CONVERSATIONS) if name != fields.response]
    if not places and turns_of(row, fields.response, alone=True) is not None:
        return Shape("", fields.response, rejected)
    return Shape(_only(row, places, "a prompt", "--prompt_field"), fields.response, rejected)


def _found(row: Row, rejected: str) -> Shape:
    prompts, answers = _prompts(row), _has(row, RESPONSES)
    talks, chosen = _has(row, CONVERSATIONS), _has(row, PREFERENCES)
    if len(chosen) + bool(answers) > 1:
        raise _ambiguous(row, [*chosen, *answers], "an answer", "--response_field")
    if answers and talks:
        raise _ambiguous(row, [*talks, *answers], "the answer", "--response_field or --prompt_field")
    if chosen:
        return Shape(_prompt_of_chosen(row, chosen[0], prompts, talks), chosen[0], rejected)
    if talks:
        talk = _only(row, talks, "a conversation", "--prompt_field")
        _check_same(row, talk, prompts)
        return Shape(talk, "", "")
    if prompts and answers:
        answer = _only(row, answers, "an answer", "--response_field")
        return Shape(_only(row, prompts, "a prompt", "--prompt_field"), answer, rejected)
    raise BadRow(
        "",
        "no prompt with an answer; name the columns with --prompt_field and --response_field",
        describe_columns(row.values),
    )


def _prompt_of_chosen(row: Row, chosen: str, prompts: list[str], talks: list[str]) -> str:
    """Return the prompt column of chosen answers; empty if there is none."""
    talk = _only(row, talks, "a conversation", "--prompt_field") if talks else ""
    if talk and not prompts and not _ends_with_answer(row, talk):
        return talk
    if talk and turns_of(row, talk) != turns_of(row, chosen):
        raise _ambiguous(row, [chosen, talk], "the answer", "--prompt_field and --response_field")
    return _only(row, prompts, "a prompt", "--prompt_field") if prompts else ""


def _ends_with_answer(row: Row, column: str) -> bool:
    turns = turns_of(row, column)
    return turns is not None and turns[-1].role == "assistant"


def _check_same(row: Row, talk: str, prompts: list[str]) -> None:
    """Refuse a prompt that does not occur in the conversation beside it."""
    turns = turns_of(row, talk) or ()
    said = {turn.content.strip() for turn in turns if turn.role == "user"}
    for prompt in prompts:
        value = row.values[prompt]
        if not isinstance(value, str) or value.strip() not in said:
            raise _ambiguous(row, [talk, prompt], "the prompt", "--prompt_field")


def _only(row: Row, names: list[str], what: str, flag: str) -> str:
    if not names:
        raise BadRow("", f"no column holds {what}; name it with {flag}", describe_columns(row.values))
    if len(names) > 1:
        raise _ambiguous(row, names, what, flag)
    return names[0]


def _ambiguous(row: Row, names: list[str], what: str, flag: str) -> BadRow:
    found = " and ".join(map(repr, names))
    return BadRow("", f"{found} may each hold {what}; select one with {flag}", describe_columns(row.values))
