"""Limits on what is read from files that others wrote, and how to change them.

Every limit is set by an environment variable, ``NLSR_MAX_`` and its name in capitals, such as
``NLSR_MAX_JSON_BYTES=1000000``, before the first file is read. They are stated in SECURITY.md.
"""

import dataclasses
import math
import os
from collections.abc import Mapping

from nlsr_jax.errors import InputError

PREFIX = "NLSR_MAX_"


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest accepted values; anything larger is refused before memory is allocated for it.

    Attributes:
      json_bytes: size of a JSON file (configs, indices, records, lists of rows or cells).
      json_depth: nesting of a JSON file.
      json_containers: lists and objects in a JSON file; an empty one of three bytes takes 90 in memory.
      header_bytes: size of the header of a safetensors file.
      tensors: tensors in a safetensors file.
      layers: decoder layers of an adapter.
      rank: rank of an adapter.
      pattern_characters: length of a regular expression in an adapter's config.
      pattern_classes: character classes in a regular expression; Python may take 10 ms to compile each.
      match_seconds: time for one match of a regular expression.
      total_match_seconds: time for all matches of a config.
      row_characters: length of a row of text data.
      rows_characters: length of all texts that a command keeps from a file of rows.
      bank_bytes: size of a file of item parameters, unpacked.
      companion_bytes: size of a file beside an adapter that is carried into an output; larger ones are left out.
      companions_bytes: size of all of them.
    """

    json_bytes: int = 32 * 2**20
    json_depth: int = 100
    json_containers: int = 2_000_000
    header_bytes: int = 16 * 2**20
    tensors: int = 200_000
    layers: int = 4096
    rank: int = 65_536
    pattern_characters: int = 200_000
    pattern_classes: int = 200
    match_seconds: float = 1.0
    total_match_seconds: float = 4.0
    row_characters: int = 4 * 2**20
    rows_characters: int = 2**30
    bank_bytes: int = 2**29
    companion_bytes: int = 64 * 2**20
    companions_bytes: int = 256 * 2**20


def from_environment(environment: Mapping[str, str]) -> Limits:
    """Return the limits, with values from the environment where it sets them.

    Raises:
      InputError: a variable with the prefix names no limit, or is not a positive number.

    >>> from_environment({"NLSR_MAX_RANK": "64"}).rank
    64
    """
    kinds = {PREFIX + field.name.upper(): field for field in dataclasses.fields(Limits)}
    changes: dict = {}
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        if name not in kinds:
            raise InputError(f"environment: {name} is not a limit; expected one of {', '.join(kinds)}")
        changes[kinds[name].name] = _number(name, environment[name], type(kinds[name].default))
    return dataclasses.replace(Limits(), **changes)


def _number(name: str, text: str, kind: type) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        expected = "number" if kind is float else "whole number"
        raise InputError(f"environment: {name} is {text!r}; expected a positive {expected}")
    return value


LIMITS = from_environment(os.environ)
