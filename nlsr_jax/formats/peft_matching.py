"""PEFT's rules for matching names and regular expressions with module paths, under a time limit.

The expressions come from other people's files. Python's own ``re`` decides what is an expression, because
PEFT uses it, but cannot be stopped while it backtracks; ``regex`` can, so that it does the matching.
"""

import re
import threading
import time
import warnings
from typing import Any

import regex

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import short
from nlsr_jax.files.limits import LIMITS

MATCH_SECONDS = LIMITS.match_seconds
TOTAL_SECONDS = LIMITS.total_match_seconds
_COMPILING = threading.Lock()
"""The filters of warnings are state of the whole process: one thread at a time changes them."""
# A brace that is no repetition stands for itself in ``re`` and is an approximate match in ``regex``.
_PLAIN_BRACE = re.compile(r"(?<!\\)\{(?!\d*(?:,\d*)?\})")


def endings(path: str) -> list[str]:
    """Return the path and what follows each of its dots: the names that select it.

    >>> endings("layers.0.mlp")
    ['layers.0.mlp', '0.mlp', 'mlp']
    """
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


class Matcher:
    """Regular expressions of one file, each compiled once, all together within ``TOTAL_SECONDS``.

    Args:
      where: the file, for messages.
    """

    def __init__(self, where: str):
        self._where = where
        self._compiled: dict[str, Any] = {}
        self._end = time.monotonic() + TOTAL_SECONDS

    def match(self, pattern: str, text: str) -> Any:
        """Match at the start of ``text``; see ``re.match``."""
        return self._run("match", pattern, text)

    def fullmatch(self, pattern: str, text: str) -> Any:
        """Match the whole of ``text``; see ``re.fullmatch``."""
        return self._run("fullmatch", pattern, text)

    def _run(self, how: str, pattern: str, text: str):
        left = self._end - time.monotonic()
        if left <= 0:
            raise InputError(f"{self._where}: its regular expressions take more than {TOTAL_SECONDS:g} s together")
        if pattern not in self._compiled:
            self._compiled[pattern] = self._compile(pattern)
        try:
            return getattr(self._compiled[pattern], how)(text, timeout=min(MATCH_SECONDS, left))
        except TimeoutError:
            raise InputError(
                f"{self._where}: the regular expression {short(pattern)} takes more than {MATCH_SECONDS:g} s "
                f"on {text!r}; write a simpler one"
            ) from None

    def _compile(self, pattern: str):
        classes = pattern.count("[")
        if classes > LIMITS.pattern_classes:
            raise InputError(
                f"{self._where}: the regular expression {short(pattern)} has {classes} character classes; "
                f"expected at most {LIMITS.pattern_classes}"
            )
        try:
            with _COMPILING, warnings.catch_warnings():
                # A warning of the compiler means that the two libraries may read the expression differently. It is
                # attributed to this module; those of other threads stay what they are.
                warnings.filterwarnings("error", module=re.escape(__name__))
                re.compile(pattern)
                return regex.compile(_PLAIN_BRACE.sub(r"\\{", pattern))
        except (re.error, regex.error, Warning, RecursionError, OverflowError) as error:
            raise InputError(f"{self._where}: {short(pattern)} is not a regular expression ({error})") from error
