"""What a fuzz target is made of: a valid file changed, and the call that reads it."""

import pathlib
from collections.abc import Callable
from typing import Any

from tests.reliability.fuzz_mutations import Random, mutate_json

Case = Callable[[Random], Callable[[], Any]]
"""Writes the files of one case, and returns the call that reads them."""


def json_file(path: pathlib.Path, value, read: Callable[[], Any]) -> Case:
    def case(random: Random):
        path.write_bytes(mutate_json(random, value))
        return read

    return case


def binary_file(path: pathlib.Path, change: Callable[[Random, bytes], bytes], read: Callable[[], Any]) -> Case:
    data = path.read_bytes()

    def case(random: Random):
        path.write_bytes(change(random, data))
        return read

    return case
