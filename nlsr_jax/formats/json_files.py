"""Strict reading of JSON objects from files that others wrote."""

import json
import os
import pathlib
import re
import stat

from nlsr_jax.errors import InputError

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 100

_LFS = b"version https://git-lfs"
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def read_json_object(path: str | os.PathLike, what: str, max_bytes: int = MAX_BYTES) -> dict:
    """Read a JSON file whose top level is an object.

    Args:
      path: the file.
      what: what the file is, for messages, such as ``"adapter config"``.
      max_bytes: larger files are refused before they are read.

    Returns:
      The object.

    Raises:
      InputError: the file is missing, empty, too large, not UTF-8, not JSON, repeats a key, holds NaN or
        Infinity, nests deeper than ``MAX_DEPTH``, or is not an object.
    """
    text = _read_text(pathlib.Path(path), what, max_bytes)
    _check_depth(text, path, what)

    def refuse_constant(name):
        raise InputError(f"{path}: {what} holds {name}, which is not JSON")

    def refuse_duplicates(pairs):
        found: dict = {}
        for name, entry in pairs:
            if name in found:
                raise InputError(f"{path}: {what} holds the key {_short(name)} twice")
            found[name] = entry
        return found

    try:
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_duplicates)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: {what} is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {what} is not usable JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: {what} holds {type(value).__name__}; expected an object")
    return value


def _short(text) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _read_text(path, what, max_bytes):
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a folder; expected the {what} file")
        if not stat.S_ISREG(status.st_mode):
            # Reading a pipe that nobody writes to would wait for ever.
            raise InputError(f"{path}: is not a regular file; expected the {what}")
        if status.st_size > max_bytes:
            raise InputError(f"{path}: {what} has {status.st_size} bytes; expected at most {max_bytes}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the {what}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data.strip():
        raise InputError(f"{path}: {what} is empty")
    if data.startswith(_LFS):
        raise InputError(f"{path}: a Git-LFS pointer, not the {what}; run 'git lfs pull'")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {what} is not UTF-8 text (byte {error.start})") from error


def _check_depth(text, path, what):
    """Refuse deep nesting before the parser recurses; strings are skipped whole."""
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{path}: {what} nests deeper than {MAX_DEPTH} levels")
        elif first in "]}":
            depth -= 1
