"""Read conversations in common formats as turns of system, user and assistant.

A turn with anything but text, or with any other role, is refused, so that no part of a conversation is lost.
"""

import json
import re
from typing import Any, NamedTuple

from nlsr_jax.data.row_values import BadRow, check_unicode, short

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "bard", "bing", "model"),
}
_NAMES = {name: role for role, names in _ROLES.items() for name in names}
_ROLE, _CONTENT = ("role", "from"), ("content", "value", "text")
_LOST = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking", "refusal",
         "audio", "images")  # fmt: skip
_WRITTEN = re.compile(r"""\s*\[?\s*\{\s*["'](role|from|content|value)["']\s*:""")
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")


class Turn(NamedTuple):
    """One turn of a conversation.

    Attributes:
      role: ``"system"``, ``"user"`` or ``"assistant"``.
      content: its text.
    """

    role: str
    content: str


def read_turns(column: str, value: Any, *, transcript: bool = False) -> tuple[Turn, ...] | None:
    """Read a conversation or a single turn.

    Args:
      column: name of the column, for messages.
      value: a list of turns or one turn, each ``{"role", "content"}`` or ``{"from", "value"}``; pairs
        ``{"human", "assistant"}``; an object with ``"messages"``; or turns as JSON text.
      transcript: also read a text ``"Human: ... Assistant: ..."``, as in HH-RLHF.

    Returns:
      The turns; None if the value is any other text.

    Raises:
      BadRow: if a part of the conversation would be lost.
    """
    if isinstance(value, str):
        written = _written(column, value)
        if written is None:
            return _transcript(column, value) if transcript else None
        value = written
    if isinstance(value, dict) and "messages" in value:
        lost = next((name for name, held in value.items() if name != "messages" and held), None)
        if lost:
            raise BadRow(column, f"has {lost!r} beside 'messages', which is not read")
        value = value["messages"]
    if not isinstance(value, list | dict):
        raise BadRow(column, "is neither text nor a list of turns", type(value).__name__)
    turns = [part for turn in (value if isinstance(value, list) else [value]) for part in _parts(turn)]
    if not turns:
        raise BadRow(column, "is empty")
    return tuple(_turn(column, turn, number) for number, turn in enumerate(turns, 1))


def _parts(turn) -> list:
    """Return a question and its answer as turns if one object holds both: ``{"human", "assistant"}``."""
    if not isinstance(turn, dict) or len(turn) != 2 or any(name in turn for name in _ROLE):
        return [turn]
    roles = {_NAMES.get(str(name)): {"role": str(name), "content": text} for name, text in turn.items()}
    return [roles["user"], roles["assistant"]] if set(roles) == {"user", "assistant"} else [turn]


def _written(column: str, text: str):
    """Return turns written as JSON text; None for any other text."""
    begins = _WRITTEN.match(text)
    if begins is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if begins[1] in _ROLE:
            raise BadRow(column, "looks like turns but is not JSON") from error
        return None
    turns = value if isinstance(value, list) else [value]
    every = (
        isinstance(turn, dict) and any(map(turn.get, _ROLE)) and any(map(turn.get, _CONTENT)) for turn in turns
    )
    return turns if all(every) else None


def _turn(column: str, turn, number: int) -> Turn:
    if not isinstance(turn, dict):
        raise BadRow(column, f"has a turn {number} that is not an object", type(turn).__name__)
    held = next((turn[name] for name in _ROLE if turn.get(name) is not None), None)
    role = _NAMES.get(held.strip().lower()) if isinstance(held, str) else None
    if role is None:
        raise BadRow(column, f"has a turn {number} whose role is not system, user or assistant", short(held))
    for name in _LOST:
        if turn.get(name):
            raise BadRow(column, f"has a turn {number} with {name}, which is not read")
    if role == "assistant" and (turn.get("weight") in (0, False) and turn.get("weight") is not None):
        raise BadRow(column, f"has a turn {number} of weight 0, which excludes it from training")
    content = next((turn[name] for name in _CONTENT if turn.get(name) is not None), None)
    text = _text(content)
    if text is None:
        raise BadRow(column, f"has a turn {number} that is not text", type(content).__name__)
    if not text.strip():
        if role != "system":
            raise BadRow(column, f"has a turn {number} that is blank")
        text = ""
    return Turn(role, check_unicode(column, text))


def _text(content) -> str | None:
    """Return a turn's text, with text parts joined; None if any part is not text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [p.get("text") if isinstance(p, dict) and p.get("type", "text") == "text" else None for p in parts]
    return "".join(texts) if texts and all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


def _transcript(column: str, text: str) -> tuple[Turn, ...] | None:
    before, *parts = _TRANSCRIPT.split(text.lstrip())
    if before or parts[:1] != ["Human"] or "Assistant" not in parts[::2]:
        return None
    turns = [
        {"role": {"Human": "user", "Assistant": "assistant"}[name], "content": said.strip()}
        for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return read_turns(column, turns)


def split_answer(column: str, turns: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], str]:
    """Return the turns before the last, and the text of the last, which must be the assistant's."""
    *before, last = turns
    if last.role != "assistant":
        raise BadRow(column, f"ends with a {last.role} turn; expected the assistant's answer at the end")
    if before and before[-1].role != "user":
        raise BadRow(column, f"has an answer after the {before[-1].role} turn; expected a user turn before it")
    return tuple(before), last.content
