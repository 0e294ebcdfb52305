"""Read prompts with safe answers from rows of any common shape; see ``row_shapes``."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nlsr_jax.data.prompts import looks_rendered, make_render, parse_alpaca
from nlsr_jax.data.row_marks import (
    UNSAFE,
    check_nothing_lost,
    check_safe,
    context_of,
    earlier_turns,
    is_blank,
    system_turn,
)
from nlsr_jax.data.row_shapes import Fields, Shape, find_shape, turns_of
from nlsr_jax.data.row_values import BadRow, Row, UnwantedRow, describe_columns
from nlsr_jax.data.rows import Note, check_size, no_note, source_rows
from nlsr_jax.data.templates import render_turns, renders_turns
from nlsr_jax.data.turns import Turn, split_answer
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

UNPAIRED = "skipped_unpaired"
_KINDS = {False: "text", True: "turns"}


class Answered(NamedTuple):
    """One prompt with its answers.

    Attributes:
      prompt: the rendered prompt.
      response: the safe answer.
      rejected: the rejected answer; empty unless preferences were requested.
    """

    prompt: str
    response: str
    rejected: str = ""


class AnsweredRows(NamedTuple):
    """The rows read from a source.

    Attributes:
      rows: the rows, in file order.
      skipped: number of skipped rows by reason: ``skipped_unsafe`` (the row marks its answer as unsafe) and
        ``skipped_unpaired`` (in preference mode, a PKU-SafeRLHF row whose two answers are both safe).
      questions: for each row the last turn before the answer as plain text, with its context.
    """

    rows: list[Answered]
    skipped: dict[str, int]
    questions: list[str]


class _Parts(NamedTuple):
    """A row before its prompt is rendered."""

    turns: tuple[Turn, ...]
    context: str
    response: str
    rejected: str
    kind: tuple[str, ...]


def read_answered(
    source: str,
    tokenizer: Tokenizer | None = None,
    *,
    template: str = "none",
    fields: Fields | None = None,
    preference: bool = False,
    note: Note = no_note,
) -> AnsweredRows:
    """Read prompts and answers from a file or a hub data set, whatever its columns are called.

    A single-turn prompt is rendered with the template. A system turn and earlier turns become part of the
    prompt; only a chat template can render them. A row with content that would be lost is an error.

    Args:
      source: see ``read_rows``.
      tokenizer: a transformers tokenizer, required by chat templates.
      template: how prompts are rendered; see ``apply_template``.
      fields: column names given by the user.
      preference: also read rejected answers.
      note: called with messages for the user: the columns that are read and the number of skipped rows.

    Returns:
      An ``AnsweredRows``.

    Raises:
      InputError: if a row has no known shape, a different shape from the first row, or content that would be
        lost (the message names the row); or if no row has a safe answer.
    """
    return read_answered_rows(
        source,
        source_rows(source, note=note),
        tokenizer,
        template=template,
        fields=fields,
        preference=preference,
        note=note,
    )


def read_answered_rows(
    source: str,
    found: Iterable[tuple[str, object]],
    tokenizer: Tokenizer | None = None,
    *,
    template: str = "none",
    fields: Fields | None = None,
    preference: bool = False,
    note: Note = no_note,
    marked: bool = True,
    count: int | None = None,
) -> AnsweredRows:
    """Read rows that were read already; see ``read_answered``.

    Args:
      source: their name, for messages.
      found: ``(where, row)`` of each.
      tokenizer, template, fields, preference, note: see ``read_answered``.
      marked: leave out rows that mark their answer as unsafe.
      count: stop when so many are taken; None for all.
    """
    read = _Reader(template, tokenizer, fields or Fields(), preference, marked)
    rows: list[Answered] = []
    questions: list[str] = []
    skipped: dict[str, int] = {}
    size = 0
    for where, values in found:
        row = Row(where, values, source.lower().endswith(".csv"))
        try:
            answered, question = read(row)
        except UnwantedRow as unwanted:
            reason = str(unwanted)
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        except BadRow as bad:
            raise InputError(f"{source}: {where}: {bad.reason}{bad.detail}") from bad
        except InputError as error:
            raise InputError(f"{source}: {where}: {error}") from error
        rows.append(answered)
        questions.append(question)
        size += sum(map(len, answered))
        check_size(source, size)
        if len(rows) == count:
            break
    number = len(rows) + sum(skipped.values())
    if not number:
        raise InputError(f"{source}: no rows; expected prompts with answers")
    for reason, times in skipped.items():
        why = "an answer marked as unsafe" if reason == UNSAFE else "no pair of a safe and an unsafe answer"
        note(f"{source}: skipped {times} of {number} rows, which have {why}")
    if not rows:
        raise InputError(f"{source}: none of the {number} rows has a usable safe answer")
    read.say(source, note)
    return AnsweredRows(rows, skipped, questions)


class _Reader:
    """Reads rows one by one; all must have the same shape."""

    def __init__(self, template: str, tokenizer, fields: Fields, preference: bool, marked: bool = True):
        self._template, self._tokenizer, self._fields, self._preference = template, tokenizer, fields, preference
        self._render: Callable[[str, str], str] = make_render(template, tokenizer)
        self._turns, self._marked = renders_turns(template), marked
        self._shape: Shape | None = None
        self._kind: tuple[str, ...] = ()

    def __call__(self, row: Row) -> tuple[Answered, str]:
        if not isinstance(row.values, dict):
            raise BadRow("", f"is {type(row.values).__name__}; expected an object with a prompt and an answer")
        shape = self._find(row)
        shape = shape if self._preference else shape._replace(rejected="")
        self._shape = self._shape or shape
        check_nothing_lost(row)
        if self._marked:
            check_safe(row)
        parts = self._pair(row) if shape.paired else self._parts(row, shape)
        if self._preference and not parts.rejected:
            raise BadRow(
                "", "has no rejected answer; name its column with --rejected_field", describe_columns(row.values)
            )
        if self._kind and parts.kind != self._kind:
            kinds, before = (" and ".join(kind) for kind in (parts.kind, self._kind))
            raise BadRow("", f"has prompt and answer as {kinds}, but the rows before have them as {before}")
        self._kind = parts.kind
        return Answered(self._prompt(parts), parts.response, parts.rejected), _question(parts)

    def _find(self, row: Row) -> Shape:
        """Return the shape of a row, which must match the rows before."""
        before = f"; the rows before have {self._shape.describe()}" if self._shape is not None else ""
        try:
            shape = find_shape(row, self._fields)
        except BadRow as bad:
            raise BadRow("", bad.reason + before, bad.args[2]) from bad
        if self._shape is not None and shape[:2] != self._shape[:2]:
            raise BadRow("", f"has {shape.describe()}{before}", describe_columns(row.values))
        return shape

    def say(self, source: str, note: Note) -> None:
        """Report the columns that were read, unless they are called prompt and response."""
        if self._shape is not None and self._shape[:2] != ("prompt", "response"):
            note(f"{source}: {self._shape.describe()}")

    def _parts(self, row: Row, shape: Shape) -> _Parts:
        if not shape.response:
            turns, response = split_answer(shape.prompt, _turns(row, shape.prompt))
            return _Parts(self._with_system(row, turns), "", response, "", (_KINDS[True],))
        own, response, talks = _answer(row, shape.response, alone=not shape.prompt)
        turns, context, kind = self._prompt_turns(row, shape, own)
        rejected = self._rejected(row, shape, own) if shape.rejected else ""
        return _Parts(turns, context, response, rejected, (kind, _KINDS[talks]))

    def _prompt_turns(self, row: Row, shape: Shape, own: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], str, str]:
        """Return the turns before an answer, the context of the last turn, and the prompt's kind (text, turns)."""
        given = turns_of(row, shape.prompt) if shape.prompt else own
        if shape.prompt and given is None:
            text = row.text(shape.prompt)
            said = [turn.content.strip() for turn in own if turn.role == "user"]
            if own and text.strip() not in said:
                raise BadRow(shape.response, f"begins with a different conversation from {shape.prompt!r}")
            context = context_of(row, shape.prompt, self._fields.prompt is not None)
            turns = own or (*earlier_turns(row), Turn("user", text))
            return self._with_system(row, turns), context, _KINDS[False]
        if not given:
            raise BadRow(shape.response, "contains no prompt; name its column with --prompt_field")
        if own and given != own and given != own[1:]:
            raise BadRow(shape.response, f"begins with a different conversation from {shape.prompt!r}")
        if given[-1].role != "user":
            raise BadRow(shape.prompt or shape.response, f"ends with a {given[-1].role} turn; expected a user turn")
        return self._with_system(row, own or given), "", _KINDS[True]

    def _with_system(self, row: Row, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        system = system_turn(row)
        if not turns:
            raise BadRow("", "has an answer without a prompt before it")
        if not is_blank(row.values.get("history")) and earlier_turns(row) != turns[:-1]:
            raise BadRow("history", "is not supported beside a conversation")
        if system and turns[0].role == "system" and turns[0] != system[0]:
            raise BadRow("system", "differs from the system turn of the conversation")
        return turns if turns[0].role == "system" else (*system, *turns)

    def _rejected(self, row: Row, shape: Shape, own: tuple[Turn, ...]) -> str:
        before, text, _ = _answer(row, shape.rejected, alone=not shape.prompt)
        if before != own:
            raise BadRow(shape.rejected, "begins with a different conversation from the chosen answer")
        return text

    def _pair(self, row: Row) -> _Parts:
        answers = [(row.text(f"response_{i}"), row.flag(f"is_response_{i}_safe")) for i in (0, 1)]
        safe = [text for text, good in answers if good]
        unsafe = [text for text, good in answers if not good]
        if not safe:
            raise UnwantedRow(UNSAFE)
        if self._preference and not unsafe:
            raise UnwantedRow(UNPAIRED)
        turns = self._with_system(row, (Turn("user", row.text("prompt")),))
        return _Parts(turns, "", safe[0], unsafe[0] if self._preference else "", (_KINDS[False],) * 2)

    def _prompt(self, parts: _Parts) -> str:
        blank = () if self._turns else (Turn("system", ""),)
        parts = parts._replace(turns=tuple(turn for turn in parts.turns if turn not in blank))
        last = parts.turns[-1].content
        if len(parts.turns) == 1:
            return self._render(*self._instruction(last, parts.context))
        if not self._turns:
            names = ", ".join(turn.role for turn in parts.turns)
            raise BadRow(
                "",
                f"has {len(parts.turns)} turns before the answer ({names}), but --template {self._template} "
                "renders only one; use --template chat, or rows with a single question",
            )
        turns = list(parts.turns)
        if parts.context:
            turns[-1] = turns[-1]._replace(content=f"{last}\n{parts.context}")
        return render_turns([turn._asdict() for turn in turns], self._tokenizer, template=self._template)

    def _instruction(self, text: str, context: str) -> tuple[str, str]:
        """Return instruction and context, parsed from the prompt if it is already an Alpaca prompt."""
        if self._template != "alpaca" or not looks_rendered(text):
            return text, context
        parsed = parse_alpaca(text)
        if parsed is None or context:
            raise BadRow("", "begins like an Alpaca prompt but is not a complete one")
        return parsed


def _question(parts: _Parts) -> str:
    text = parts.turns[-1].content
    return f"{text}\n{parts.context}" if parts.context else text


def _turns(row: Row, column: str) -> tuple[Turn, ...]:
    found = turns_of(row, column)
    if found is None:
        raise BadRow(column, "is text; expected a list of turns")
    return found


def _answer(row: Row, column: str, *, alone: bool) -> tuple[tuple[Turn, ...], str, bool]:
    """Return the turns before an answer, the answer, and whether the column holds a conversation."""
    found = turns_of(row, column, alone=alone)
    if found is None:
        return (), row.text(column), False
    return *split_answer(column, found), True
