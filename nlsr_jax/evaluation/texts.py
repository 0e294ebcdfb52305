"""Prepare texts for judging: normalise typography, and detect broken answers.

What a model writes may differ from a phrase in typography only: ``I’m sorry`` is ``I'm sorry``. And a model that
says nothing has neither complied nor refused.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable

_PLAIN = {
    "'": "’‘‚‛ʼʻʽʹˈˊˋ′‵´`＇｀‹›ꞌꞋ՚᾽᾿",
    '"': "“”„‟«»″‶〝〞＂",
    "-": "‐‑‒–—―−⁃﹘﹣－",
}
_MARKS = str.maketrans({mark: plain for plain, marks in _PLAIN.items() for mark in marks})
_OTHER_NUMBERS = ("<super>", "<sub>", "<fraction>")
_SPACES = re.compile(r"\s+")

_ROLE = r"(?:<\|(?:start_header_id|im_start|start)\|>|<start_of_turn>)\s*(?:assistant|user|system|model|tool)\b"
_NAMES = r"s|pad|unk|bos|eos|sep|cls|mask|end|eot|user|assistant|system|start_of_turn|end_of_turn|unused\d+"
_SPECIAL = re.compile(
    rf"{_ROLE}|<[|｜][^<>|｜]*[|｜]>|</?(?:{_NAMES}|0x[0-9a-f]{{2}}|extra_id_\d+)>|\[/?(?:pad|unk|cls|sep|mask|inst)\]",
    re.IGNORECASE,
)

LONGEST_FRAGMENT, REPEATS, SHORTEST_LOOP = 16, 4, 8
"""An answer is broken if it repeats one fragment of at most this many characters at least this many times, with
at least this total length. A wide character (Chinese, say) counts as four. Repeated sentences are not broken."""


def plain_text(text: str) -> str:
    """Normalise a text for comparison.

    Quotes, apostrophes and dashes become ASCII; full-width letters, ligatures and the ellipsis become their plain
    forms (NFKC, except for superscripts and fractions, which are different numbers); invisible characters are
    removed; each run of white space, including no-break spaces, becomes one space. Case is kept.

    >>> plain_text("I’m\\u00a0sorry — I can＇t…")
    "I'm sorry - I can't..."
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_MARKS)  # NFKC alone would detach some accents
        text = "".join(map(_plain_character, text))
    return _SPACES.sub(" ", text.translate(_MARKS))


def _plain_character(character: str) -> str:
    if character.isascii():
        return character
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if unicodedata.decomposition(character).startswith(_OTHER_NUMBERS):
        return character
    return unicodedata.normalize("NFKC", character)


EMPTY, INCOHERENT = "empty", "incoherent"


def fault_of(text: str) -> str | None:
    """Return why an answer is broken: ``EMPTY`` or ``INCOHERENT``; None if it is not.

    >>> [fault_of(text) for text in (" </s>", "::::::::", "the the the the", "No.")]
    ['empty', 'incoherent', 'incoherent', None]
    """
    text = plain_text(_SPECIAL.sub(" ", text).replace("\ufffd", "")).strip()
    if not text:
        return EMPTY
    return INCOHERENT if not any(map(str.isalnum, text)) or _is_loop(text) else None


def count_broken(texts: Iterable[str]) -> dict[str, int]:
    """Return how many answers are empty, and how many are incoherent."""
    found = collections.Counter(map(fault_of, texts))
    return {fault: found[fault] for fault in (EMPTY, INCOHERENT)}


def is_broken(text: str) -> bool:
    """Return whether an answer is broken: it contains nothing that could comply or refuse.

    A broken text has no letter or number once special tokens and cut characters are removed, or it repeats one
    short fragment over and over.

    >>> [is_broken(text) for text in ("", " </s>", "::::::::", "the the the the", "No.")]
    [True, True, True, True, False]
    """
    return fault_of(text) is not None


def _is_loop(text: str) -> bool:
    if len(text) < SHORTEST_LOOP:
        return False
    for size in range(1, min(LONGEST_FRAGMENT, (len(text) + 1) // REPEATS) + 1):
        # A text is periodic if it equals itself shifted by the period; its end may be cut.
        if text[size:] == text[:-size]:
            return _is_fragment(text[:size])
    return False


def _is_fragment(text: str) -> bool:
    """Return whether a text is not a sentence: it is short, and has one word or no punctuation."""
    size = sum(4 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return size <= LONGEST_FRAGMENT and (" " not in text.strip() or text.replace(" ", "").isalnum())
