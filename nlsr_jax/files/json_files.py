"""Strict reading of JSON files that others wrote."""

import collections
import json
import os
import pathlib
import re
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import short
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import check_file, check_start, expand, unreadable

MAX_BYTES = LIMITS.json_bytes
MAX_DEPTH = LIMITS.json_depth

_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(path: str | os.PathLike, what: str, max_bytes: int = MAX_BYTES) -> dict:
    """Read a JSON file whose top level is an object.

    Args:
      path: the file.
      what: what the file is, for messages, such as ``"adapter config"``.
      max_bytes: larger files are refused before they are read.

    Returns:
      The object.

    Raises:
      InputError: see ``read_json``, or it is not an object.
    """
    value = read_json(path, what, max_bytes)
    if not isinstance(value, dict):
        raise InputError(f"{path}: {what} holds {type(value).__name__}; expected an object")
    return value


def read_json(path: str | os.PathLike, what: str, max_bytes: int = MAX_BYTES, *, allow_nan: bool = False) -> Any:
    """Read a JSON file of any kind of value.

    Args:
      path, what, max_bytes: see ``read_json_object``.
      allow_nan: accept NaN and Infinity, which Python writes, in values that are not used.

    Returns:
      The value.

    Raises:
      InputError: the file is missing, empty, too large, not UTF-8, not JSON, repeats a key, holds NaN or
        Infinity, nests deeper than ``MAX_DEPTH``, or has more lists and objects than memory should hold.
    """
    text = _read_text(expand(path), what, max_bytes)
    _check_nesting(text, path, what)

    def refuse_constant(name):
        if allow_nan:
            return float(name)
        raise InputError(f"{path}: {what} holds {name}, which JSON does not allow")

    try:
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=without_duplicates)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise InputError(f"{path}: {what} holds half of a surrogate pair, which is not valid text") from None
    except RepeatedKey as error:
        raise InputError(f"{path}: {what} holds the key {short(error.args[0])} twice") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: {what} is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {what} is not usable JSON ({error})") from error


class RepeatedKey(ValueError):
    """A JSON object has a key twice; the argument is the key."""


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict:
    """Return an object from its pairs; a hook for ``json.loads``.

    Raises:
      RepeatedKey: a key appears twice; readers differ in which one counts.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        raise RepeatedKey(next(name for name, count in counts.items() if count > 1))
    return found


def _read_text(path: pathlib.Path, what: str, max_bytes: int) -> str:
    size = check_file(path, f"the {what}")
    if size > max_bytes:
        raise InputError(f"{path}: {what} has {size} bytes; expected at most {max_bytes}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    check_start(data, path, f"the {what}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {what} is not UTF-8 text (byte {error.start})") from error


def _check_nesting(text, path, what):
    """Refuse deep nesting before the parser recurses, and too many lists and objects; skip strings."""
    depth = count = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            count += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{path}: {what} nests deeper than {MAX_DEPTH} levels, which is not supported")
            if count > LIMITS.json_containers:
                raise InputError(f"{path}: {what} has more than {LIMITS.json_containers} lists and objects")
        elif first in "]}":
            depth -= 1
