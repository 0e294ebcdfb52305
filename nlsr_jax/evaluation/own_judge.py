"""A judge of the user's: a function of an answer, a file of phrases, or a function that is named.

The function takes an answer, or a request and its answer. It returns True where the answer refuses and False where
it does not, or one of the words ``"complied"``, ``"refused"`` and ``"odd"``. The same judge decides on harmful
requests (HS counts those complied with) and on harmless ones (over-refusal).
"""

import importlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import check_pairs
from nlsr_jax.evaluation.judges import COMPLIED, ODD, REFUSED, Verdicts, plain_verdicts
from nlsr_jax.evaluation.phrases import SUFFIXES, Phrases, read_phrases
from nlsr_jax.evaluation.texts import is_broken
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.paths import expand, is_regular

WORDS = (COMPLIED, REFUSED, ODD)
Decide = Callable[..., "bool | str"]
"""``(answer)`` or ``(request, answer)`` → True if it refuses, or one of ``WORDS``."""


class AnswerJudge:
    """Judges answers one by one; broken answers are odd and are not shown to the function.

    Args:
      decide: see ``Decide``.
      name: for messages and records.
      digest: SHA-256 of the file that it comes from; None if there is none.

    Raises:
      InputError: if ``decide`` takes neither one nor two arguments.
    """

    def __init__(self, decide: Decide, name: str, digest: str | None = None):
        self.name, self.digest = name, digest
        self._decide, self._both = decide, _takes_both(decide, name)

    def classify(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        """Return one of ``WORDS`` for each response.

        Raises:
          InputError: if the function fails or returns anything else; the message names the row.
        """
        check_pairs(prompts, responses)
        pairs = enumerate(zip(prompts, responses, strict=True))
        return [ODD if is_broken(text) else self._word(row, prompt, text) for row, (prompt, text) in pairs]

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Verdicts:
        """Return the verdicts: answers that comply are harmful."""
        return plain_verdicts([word == COMPLIED for word in self.classify(prompts, responses)])

    def _word(self, row: int, prompt: str, answer: str) -> str:
        try:
            found = self._decide(prompt, answer) if self._both else self._decide(answer)
        except Exception as error:  # a function of the user's may raise anything
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"judge {self.name}: fails on row {row} ({type(error).__name__}: {reason[:200]})"
            ) from error
        if isinstance(found, bool | np.bool_):
            return REFUSED if found else COMPLIED
        if isinstance(found, str) and found in WORDS:
            return found
        raise InputError(
            f"judge {self.name}: returned {found!r:.60} for row {row}; expected True if the answer refuses, False "
            f"if it does not, or one of {', '.join(WORDS)}"
        )


def _takes_both(decide: Decide, name: str) -> bool:
    """Return whether a function takes request and answer."""
    try:
        parameters = inspect.signature(decide).parameters.values()
    except (TypeError, ValueError):
        return False
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in places if one.default is one.empty]
    if len(needed) in (1, 2):
        return len(needed) == 2
    if not needed and (places or any(one.kind == one.VAR_POSITIONAL for one in parameters)):
        return False
    raise InputError(
        f"judge {name}: takes {len(needed)} arguments; expected a function of the answer, or of request and answer"
    )


def as_judge(judge: Any) -> AnswerJudge:
    """Return a judge.

    >>> as_judge(lambda answer: "zarn" in answer).classify(["How?"], ["No zarn here."])
    ['refused']

    Args:
      judge: a function (see ``Decide``), ``Phrases``, the path of a file of phrases (``.txt`` or ``.json``), or
        the name of a function: ``module:function`` or ``file.py:function``.

    Raises:
      InputError: if it is none of these or cannot be read.
    """
    if isinstance(judge, AnswerJudge):
        return judge
    if isinstance(judge, Phrases):
        return AnswerJudge(judge.refuses, judge.name, judge.digest)
    if isinstance(judge, str | pathlib.Path):
        return _named(str(judge))
    if callable(judge):
        return AnswerJudge(judge, getattr(judge, "__qualname__", type(judge).__name__))
    raise InputError(f"judge is {judge!r:.60}; expected a function, a file of phrases, or the name of a function")


def is_own(name: str) -> bool:
    """Return whether a name is that of a file of phrases or of a function."""
    return pathlib.Path(name).suffix.lower() in SUFFIXES or ":" in name


def _named(name: str) -> AnswerJudge:
    if ":" not in name:
        found = read_phrases(name)
        return AnswerJudge(found.refuses, name, found.digest)
    place, _, function = name.rpartition(":")
    module = _module_of_file(place) if place.endswith(".py") else _module(place)
    decide = getattr(module, function, None)
    if not callable(decide):
        raise InputError(f"judge {name}: {place} has no function {function!r}")
    file = pathlib.Path(getattr(module, "__file__", None) or "")
    return AnswerJudge(decide, name, sha256(file) if is_regular(file) else None)


def _module(name: str) -> Any:
    """Import a module, from the working directory too."""
    here = str(pathlib.Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # what a module runs may raise anything
        raise InputError(f"judge: the module {name} cannot be imported ({error})") from error
    finally:
        sys.path.remove(here)


def _module_of_file(path: str) -> Any:
    """Import a file of Python by its path."""
    file = expand(path)
    if not is_regular(file):
        raise InputError(f"judge: {file}: no such file of Python")
    spec = importlib.util.spec_from_file_location(f"judge_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # what a module runs may raise anything
        raise InputError(f"judge: {file} cannot be imported ({error})") from error
    return module
