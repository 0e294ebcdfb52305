"""What other columns say of a row: whether its answer is safe, and what belongs to its prompt beside the prompt."""

from typing import Any

from nlsr_jax.data.row_values import BadRow, Row, UnwantedRow, short
from nlsr_jax.data.turns import Turn

UNSAFE = "skipped_unsafe"
_SAFE, _HARMFUL = ("is_safe", "is_response_safe"), ("is_harmful", "is_unsafe")
_SHORT = {"safe": True, "harmless": True, "harmful": False, "unsafe": False, "toxic": False, "is_toxic": False}
"""Marks of the prompt or of the answer, and whether true is good; they may also be scores, which say neither."""
_LABELS = ("label", "kto_tag", "flag", "safety_label", "response_label", "response_harm_label")
_GOOD = ("safe", "unharmful", "harmless", "desirable", "chosen")
_BAD = ("unsafe", "harmful", "undesirable", "rejected")
_SYSTEM, _CONTEXT = ("system", "system_prompt"), ("input", "context")
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LOST = ("tools", "functions", "images", "image", "videos", "video", "audios", "audio")
_CHOICES = ("choices", "options")


def check_safe(row: Row) -> None:
    """Check that nothing marks a row's answer as a bad one.

    Booleans ``is_safe`` (BeaverTails) and ``is_response_safe`` must be true, ``is_harmful`` and ``is_unsafe``
    false, ``label`` and ``kto_tag`` (KTO rows) true; labels in words must not be those of bad answers. ``safe``,
    ``harmful`` and the like may be the prompt's, and must not say that something is bad.

    Raises:
      UnwantedRow: the answer is marked as unsafe or undesirable; its argument is ``UNSAFE``.
      BadRow: a mark that cannot be read.
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
            "is a number, and a row of answers is marked by true (good) or false (bad); write that, or rename the "
            "column if it says something else",
            short(value),
        )
    return word not in _BAD


def _check_short(row: Row, name: str, good_when: bool) -> None:
    found = _YES_NO.get(str(row.values.get(name)).strip().lower())
    if found is not None and found != good_when:
        raise BadRow(
            name,
            "may say that the answer is bad, or the prompt alone; rename it to is_safe or is_harmful if it is the "
            "answer's, to another name if it is the prompt's",
            short(row.values[name]),
        )


def system_turn(row: Row) -> tuple[Turn, ...]:
    """Return the system turn that a row's ``system`` or ``system_prompt`` gives; none where there is none."""
    texts = [row.text(name) for name in _SYSTEM if not is_blank(row.values.get(name))]
    if len(set(texts)) > 1:
        raise BadRow("system", "and 'system_prompt' differ")
    return tuple(Turn("system", text) for text in texts[:1])


def earlier_turns(row: Row) -> tuple[Turn, ...]:
    """Return the turns of ``history``, pairs of question and answer, as LLaMA-Factory writes them."""
    if is_blank(row.values.get("history")):
        return ()
    turns: list[Turn] = []
    for pair in row.nested("history", list):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(t, str) and t for t in pair):
            raise BadRow("history", "holds something else than pairs of question and answer")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return tuple(turns)


def context_of(row: Row, prompt: str, named: bool) -> str:
    """Return the text that belongs to a prompt beside it: ``input`` (Alpaca) or ``context`` (Dolly).

    Args:
      row: the row.
      prompt: column of the prompt.
      named: whether the user named that column.

    Raises:
      BadRow: text that may belong to the prompt, or not.
    """
    found = [name for name in _CONTEXT if name != prompt and not is_blank(row.values.get(name))]
    if prompt not in ("prompt", "instruction", "question", "query", "problem") or not found:
        return ""
    if prompt == "prompt" and named:
        return ""
    if prompt == "prompt" or len(found) > 1:
        raise BadRow(
            found[0],
            f"holds something beside {prompt!r}; write it into the prompt, or name the column with --prompt_field "
            "prompt to leave it out",
        )
    return row.text(found[0])


def check_nothing_lost(row: Row) -> None:
    """Raise BadRow where a row holds tools, pictures or sound, which no text shows, or choices of a question."""
    for name in _LOST:
        if not is_blank(row.values.get(name)):
            raise BadRow(name, "is not empty, and only text is read")
    for name in _CHOICES:
        if not is_blank(row.values.get(name)):
            raise BadRow(
                name, "is not read, and the question may need it; write it into the prompt, and take the column out"
            )


def is_blank(value: Any) -> bool:
    """Say whether a value says nothing."""
    return value is None or value in ("[]", "{}", "null") or (not value and value != 0) or (
        isinstance(value, str) and not value.strip()
    )  # fmt: skip
