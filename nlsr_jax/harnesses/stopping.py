"""Strings that end an answer: which tokens contain one, and where a text is cut."""

import functools
from collections.abc import Iterable, Sequence

from nlsr_jax.types import Tokenizer


class TokenTexts:
    """The text of every token of a tokenizer, special tokens included.

    Args:
      tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    @functools.cached_property
    def _texts(self) -> list[tuple[int, str]]:
        ids = sorted(set(self._tokenizer.get_vocab().values()))
        return list(zip(ids, self._tokenizer.batch_decode([[i] for i in ids]), strict=True))

    def containing(self, stops: Iterable[str]) -> tuple[int, ...]:
        """Return the tokens whose own text contains a stop string: an answer ends with each of them at the latest.

        Args:
          stops: strings that end an answer.
        """
        stops = [stop for stop in stops if stop]
        return tuple(i for i, text in self._texts if any(stop in text for stop in stops)) if stops else ()


def cut(text: str, stops: Sequence[str]) -> str:
    r"""Return a text up to the first stop string in it.

    >>> cut("4\n\nQ: 5", ["\n\n", "Q:"])
    '4'
    """
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text
