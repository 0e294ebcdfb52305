"""Interpret a row's other columns: whether its answer is safe, and what else belongs to its prompt."""

from typing import Any

from nlsr_jax.data.row_values import BadRow, Row, UnwantedRow, short
from nlsr_jax.data.turns import Turn

UNSAFE = "skipped_unsafe"
_SAFE, _HARMFUL = ("is_safe", "is_response_safe"), ("is_harmful", "is_unsafe")
_SHORT = {"safe": True, "harmless": True, "harmful": False, "unsafe": False, "toxic": False, "is_toxic": False}
"""Marks of the prompt or the answer, with the value that means good; scores in these columns are ignored."""
_LABELS = ("label", "kto_tag", "flag", "safety_label", "response_label", "response_harm_label")
_GOOD = ("safe", "unharmful", "harmless", "desirable", "chosen")
_BAD = ("unsafe", "harmful", "undesirable", "rejected")
_SYSTEM, _CONTEXT = ("system", "system_prompt"), ("input", "context")
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LOST = ("tools", "functions", "images", "image", "videos", "video", "audios", "audio")
_CHOICES = ("choices", "options")


def check_safe(row: Row) -> None:
    """Check that no column marks a row's answer as bad.

    Booleans ``is_safe`` (BeaverTails) and ``is_response_safe`` must be true, ``is_harmful`` and ``is_unsafe``
    false, ``label`` and ``kto_tag`` (KTO rows) true; text labels must not be those of bad answers. ``safe``,
    ``harmful`` and the like may refer to the prompt, and must not mark anything as bad.

    Raises:
      UnwantedRow: if the answer is marked as unsafe or undesirable; its argument is ``UNSAFE``.
      BadRow: if a mark cannot be interpreted.
    """
    good = [row.flag(name) for name in _SAFE if name in row.values]
    good += [not row.flag(name) for name in _HARMFUL if name in row.values]
    good += [_label(row, name) for name in _LABELS if row.has(name)]
    for name, good_when in _SHORT.items():
        _check_short(row, name, good_when)
    if not all(good):
        raise UnwantedRow(UNSAFE)


def _label(row: Row, name: str) -> bool:
    value = row.values[name]
    word = value.strip().lower() if isinstance(value, str) else ""
    if isinstance(value, bool) or word in ("true", "false"):
        return value is True or word == "true"
    if name in ("label", "kto_tag") and (value in (0, 1) or word in ("0", "1")):
        raise BadRow(
            name,
            "is a number; rows with answers must be marked true (good) or false (bad): change it, or rename the "
            "column if it means something else",
            short(value),
        )
    return word not in _BAD


def _check_short(row: Row, name: str, good_when: bool) -> None:
    found = _YES_NO.get(str(row.values.get(name)).strip().lower())
    if found is not None and found != good_when:
        raise BadRow(
            name,
            "may mark the answer or only the prompt as bad; rename it to is_safe or is_harmful if it describes the "
            "answer, or to another name if it describes the prompt",
            short(row.values[name]),
        )


def system_turn(row: Row) -> tuple[Turn, ...]:
    """Return the system turn from a row's ``system`` or ``system_prompt``; empty if it has neither."""
    texts = [row.text(name) for name in _SYSTEM if not is_blank(row.values.get(name))]
    if len(set(texts)) > 1:
        raise BadRow("system", "and 'system_prompt' differ")
    return tuple(Turn("system", text) for text in texts[:1])


def earlier_turns(row: Row) -> tuple[Turn, ...]:
    """Return the turns of ``history``: pairs of question and answer, as in LLaMA-Factory."""
    if is_blank(row.values.get("history")):
        return ()
    turns: list[Turn] = []
    for pair in row.nested("history", list):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(t, str) and t for t in pair):
            raise BadRow("history", "contains something other than pairs of question and answer")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return tuple(turns)


def context_of(row: Row, prompt: str, named: bool) -> str:
    """Return the context column that belongs to a prompt: ``input`` (Alpaca) or ``context`` (Dolly).

    Args:
      row: the row.
      prompt: column of the prompt.
      named: whether the user named that column.

    Raises:
      BadRow: if it is unclear whether a text belongs to the prompt.
    """
    found = [name for name in _CONTEXT if name != prompt and not is_blank(row.values.get(name))]
    if prompt not in ("prompt", "instruction", "question", "query", "problem") or not found:
        return ""
    if prompt == "prompt" and named:
        return ""
    if prompt == "prompt" or len(found) > 1:
        raise BadRow(
            found[0],
            f"has content beside {prompt!r}; add it to the prompt, or name the column with --prompt_field "
            "prompt to ignore it",
        )
    return row.text(found[0])


def check_nothing_lost(row: Row) -> None:
    """Raise BadRow if a row has tools, images or audio, which no text shows, or the choices of a question."""
    for name in _LOST:
        if not is_blank(row.values.get(name)):
            raise BadRow(name, "is not empty, but only text is read")
    for name in _CHOICES:
        if not is_blank(row.values.get(name)):
            raise BadRow(
                name, "is not read, but the question may need it; add it to the prompt and remove the column"
            )


def is_blank(value: Any) -> bool:
    """Return whether a value is empty."""
    return value is None or value in ("[]", "{}", "null") or (not value and value != 0) or (
        isinstance(value, str) and not value.strip()
    )  # fmt: skip
