"""Read prompts without answers from rows of any common shape; answers beside them are ignored."""

from collections.abc import Iterable
from typing import NamedTuple

from nlsr_jax.data.answered import read_answered_rows
from nlsr_jax.data.row_shapes import (
    CONVERSATIONS,
    LAST_PROMPTS,
    PAIRED,
    PREFERENCES,
    PROMPTS,
    RESPONSES,
    Fields,
)
from nlsr_jax.data.row_values import describe_columns
from nlsr_jax.data.rows import Note, no_note, source_rows
from nlsr_jax.errors import InputError, argument
from nlsr_jax.types import Tokenizer

_ANSWERS = (*RESPONSES, *CONVERSATIONS, *PREFERENCES, *PREFERENCES.values(), *PAIRED)
_PLACES = (*PROMPTS, *LAST_PROMPTS, *_ANSWERS)
_ANSWER = "-"


class Asked(NamedTuple):
    """A prompt without an answer.

    Attributes:
      prompt: the rendered prompt, for a model.
      question: the last turn as plain text, for a judge.
    """

    prompt: str
    question: str


def read_asked(
    source: str,
    tokenizer: Tokenizer | None = None,
    *,
    template: str = "none",
    field: str | None = None,
    field_argument: str = "harmless_field",
    note: Note = no_note,
) -> list[str]:
    """Return the rendered prompts of a source, in file order; see ``read_questions``."""
    options: dict = {"template": template, "field": field, "field_argument": field_argument, "note": note}
    return [row.prompt for row in read_questions(source, tokenizer, **options)]


def read_questions(
    source: str,
    tokenizer: Tokenizer | None = None,
    *,
    template: str = "none",
    field: str | None = None,
    field_argument: str = "harmless_field",
    note: Note = no_note,
) -> list[Asked]:
    """Read prompts from a file or a hub data set, whatever their column is called.

    Args:
      source: see ``read_rows``; a row may also be the text of a prompt alone.
      tokenizer: a transformers tokenizer, required by chat templates.
      template: how prompts are rendered; see ``apply_template``.
      field: column of the prompt or of a conversation that ends with an answer; None for a column to be detected.
      field_argument: name of the argument that ``field`` comes from, for messages.
      note: called with messages for the user, one line each.

    Returns:
      Prompts with their questions, in file order.

    Raises:
      InputError: as ``read_answered``.
    """
    options: dict = {"template": template, "field": field, "note": note, "marked": True}
    return read_asked_rows(
        source, source_rows(source, note=note), tokenizer, field_argument=field_argument, **options
    )


def read_asked_rows(
    source: str,
    found: Iterable[tuple[str, object]],
    tokenizer: Tokenizer | None = None,
    *,
    template: str = "none",
    field: str | None = None,
    field_argument: str = "harmless_field",
    note: Note = no_note,
    marked: bool = False,
) -> list[Asked]:
    """Read prompts of rows that were read already; see ``read_questions``.

    Args:
      source: their name, for messages.
      found: ``(where, row)`` of each.
      tokenizer, template, field, field_argument, note: see ``read_questions``.
      marked: leave out rows that mark their answer as unsafe.
    """
    named = argument(field_argument)

    def rows():
        for where, values in found:
            values = {"prompt": values} if isinstance(values, str) else values
            if isinstance(values, dict):
                values = _with_answer(values, field)
                if field is None and not any(values.get(name) is not None for name in _PLACES):
                    raise InputError(
                        f"{source}: {where}: no column holds a prompt; name it with {named} "
                        f"(found {describe_columns(values)})"
                    )
            yield where, values

    fields = Fields(prompt=field)
    try:
        options: dict = {"template": template, "fields": fields, "note": note, "marked": marked}
        read = read_answered_rows(source, rows(), tokenizer, **options)
    except InputError as error:
        raise InputError(error.marked.replace("--prompt_field", named)) from None
    return [Asked(row.prompt, text) for row, text in zip(read.rows, read.questions, strict=True)]


def _with_answer(values: dict, field: str | None) -> dict:
    """Return a row with an answer that stands for the one it does not have."""
    talk = field or next((name for name in CONVERSATIONS if values.get(name) is not None), "")
    if isinstance(values.get(talk), list):
        return {**values, talk: _ended(values[talk])}
    if any(values.get(name) is not None for name in _ANSWERS if name != field):
        return values
    if field is None and not any(values.get(name) is not None for name in (*PROMPTS, *LAST_PROMPTS)):
        return values
    return {**values, RESPONSES[0]: _ANSWER}


def _ended(turns: list) -> list:
    """Return a conversation that ends with an answer."""
    last = turns[-1] if turns else None
    for role, content, user, assistant in (
        ("role", "content", "user", "assistant"),
        ("from", "value", "human", "gpt"),
    ):
        if isinstance(last, dict) and last.get(role) == user:
            return [*turns, {role: assistant, content: _ANSWER}]
    return turns
