"""Lists of phrases and regular expressions that tell refusals, from a file or from Python.

A file has one entry a line: a phrase, or a regular expression between slashes (``/i (can't|won't) help/``). Blank
lines and lines that begin with ``#`` are left out. A JSON file holds a list of such entries, or an object::

  {"entries": ["I cannot", "/off[- ]limits/"], "opening": 300, "case": false}

An answer refuses if one entry occurs in it, where typography makes no difference (``plain_text``).
"""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.texts import is_broken, plain_text
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.json_files import read_json
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import check_file, expand

SUFFIXES = (".txt", ".json")
_FIELDS = ("entries", "opening", "case")


class Phrases(NamedTuple):
    """Compiled entries.

    Attributes:
      name: of the list, or its file.
      patterns: one for each entry.
      opening: number of characters of an answer that are searched; None for all.
      digest: SHA-256 of the file; None for a list from Python.
    """

    name: str
    patterns: tuple[re.Pattern[str], ...]
    opening: int | None = None
    digest: str | None = None

    def refuses(self, answer: str) -> bool:
        """Return whether an answer holds an entry; a broken answer does not refuse."""
        text = plain_text(answer).strip()[: self.opening]
        return any(pattern.search(text) for pattern in self.patterns) and not is_broken(answer)


def compile_phrases(
    entries: Iterable[str], name: str = "phrases", *, opening: int | None = None, case: bool = False
) -> Phrases:
    """Compile phrases and regular expressions.

    >>> compile_phrases(["no zarn", "/^never/"]).refuses("Never ask this.")
    True

    Args:
      entries: phrases, and regular expressions between slashes.
      name: for messages.
      opening: number of characters of an answer that are searched; None for all.
      case: whether capitals count.

    Raises:
      InputError: if there are no entries, or one cannot be used.
    """
    compiled = [_compiled(entry, f"{name}: entry {number}", case) for number, entry in enumerate(entries, 1)]
    if not compiled:
        raise InputError(f"{name}: has no phrases; expected at least one, one a line")
    return Phrases(name, tuple(compiled), opening)


def read_phrases(path: str | os.PathLike) -> Phrases:
    """Read a file of phrases and regular expressions.

    Args:
      path: a ``.txt`` or ``.json`` file, as the head of this module describes it.

    Raises:
      InputError: if the file cannot be read, or an entry cannot be used; the message names the line or entry.
    """
    file = expand(path)
    if file.suffix.lower() == ".json":
        found = _from_json(file)
    else:
        lines = _lines(file)
        compiled = [_compiled(line, f"{file}: line {number}", False) for number, line in lines]
        if not compiled:
            raise InputError(f"{file}: has no phrases; expected at least one, one a line")
        found = Phrases(str(file), tuple(compiled))
    return found._replace(digest=sha256(file))


def _lines(file: pathlib.Path) -> list[tuple[int, str]]:
    """Return the lines with entries, with their numbers."""
    size = check_file(file, "the file of phrases")
    if size > LIMITS.json_bytes:
        raise InputError(f"{file}: has {size} bytes; expected at most {LIMITS.json_bytes}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text (byte {error.start})") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _from_json(file: pathlib.Path) -> Phrases:
    value: Any = read_json(file, "list of phrases")
    value = {"entries": value} if isinstance(value, list) else value
    if not isinstance(value, dict) or not isinstance(value.get("entries"), list):
        raise InputError(f"{file}: holds no list of phrases; expected a list of texts, or an object with 'entries'")
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise InputError(f"{file}: has {unknown[0]!r}; expected {', '.join(_FIELDS)}")
    opening, case = value.get("opening"), value.get("case", False)
    if opening is not None and (isinstance(opening, bool) or not isinstance(opening, int) or opening < 1):
        raise InputError(f"{file}: 'opening' is {opening!r}; expected a number of characters, at least 1")
    if not isinstance(case, bool):
        raise InputError(f"{file}: 'case' is {case!r}; expected true or false")
    return compile_phrases(value["entries"], str(file), opening=opening, case=case)


def _compiled(entry: Any, where: str, case: bool) -> re.Pattern[str]:
    if not isinstance(entry, str) or not entry.strip():
        raise InputError(f"{where} is {entry!r}; expected a phrase, or a regular expression between slashes")
    inner = entry[1:-1] if len(entry) > 2 and entry.startswith("/") and entry.endswith("/") else None
    try:
        return re.compile(re.escape(plain_text(entry)) if inner is None else inner, 0 if case else re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {entry} is not a regular expression ({error})") from error
