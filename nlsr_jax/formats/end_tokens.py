"""The tokens that end an answer, as the files of a Hugging Face directory name them.

Source: transformers reads ``generation_config.json``, and ``config.json`` where there is none.
"""

import pathlib
from typing import Any

from nlsr_jax.files.fields import unexpected
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import exists

FILES = {"generation_config.json": "generation config", "config.json": "model config"}
FIELD = "eos_token_id"


def read_end_tokens(folder: pathlib.Path, vocabulary: int) -> tuple[tuple[int, ...], list[str]]:
    """Read the end tokens of a local model directory.

    Args:
      folder: the directory.
      vocabulary: how many tokens the model has.

    Returns:
      The ``eos_token_id`` of the first of ``FILES`` that names any, and notes on entries that are not tokens.

    Raises:
      InputError: a file that cannot be read, or an ``eos_token_id`` that is not a token id or a list of them.
    """
    notes: list[str] = []
    for name, what in FILES.items():
        if not exists(folder / name):
            continue
        named = _named(read_json_object(folder / name, what).get(FIELD), f"{folder / name}")
        found = [token for token in named if token is not None and 0 <= token < vocabulary]
        if left := [token for token in named if token not in found]:
            shown = ", ".join("null" if token is None else str(token)[:40] for token in left[:4])
            notes.append(f"{folder / name}: {FIELD} holds {shown}, not in the vocabulary of {vocabulary}; left out")
        if found:
            return tuple(dict.fromkeys(found)), notes
    return (), notes


def _named(value: Any, where: str) -> list[int | None]:
    """Return what an ``eos_token_id`` names, one token or a list of them."""
    if value is None:
        return []
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, int)):
            raise unexpected(value, FIELD, where, "a token id or a list of them")
    return entries
