"""How a command ends that has checked a model."""

import sys
from collections.abc import Mapping
from typing import Any

from nlsr_jax.commands import streams


def print_check(record: Mapping[str, Any]) -> None:
    """Print the rates, the notes and the decisions of a check."""
    from nlsr_jax.gate.writing import lines

    print(*lines(record), sep="\n")


def end_with(status: int) -> None:
    """End the program where the status is not 0, once all that was printed is out."""
    if status:
        streams.check_printed()
        sys.exit(status)
