"""The exception for bad input, and the exception for a signal."""

_LONGEST = 2000
_END = 400
"""Maximum length of a message, and length of its end if the middle is cut."""


class InputError(ValueError):
    """The caller's input cannot be used.

    The message is one line that says what was found, where (file, tensor, module or row), what was
    expected, and what to do. Commands print it unchanged and exit with status 1.

    Names and values in it may come from untrusted files: line ends become spaces, control characters become
    escapes, and the middle of a very long message is cut, so that a terminal can show it safely.
    """

    def __init__(self, message: object = ""):
        super().__init__(one_line(str(message)))


class Interrupted(KeyboardInterrupt):
    """A signal that asks a command to end; ``number`` is the signal's number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def one_line(text: str) -> str:
    """Return a text that is safe to show on a terminal; see ``InputError``."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - _END]} … {text[-_END:]}"
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
