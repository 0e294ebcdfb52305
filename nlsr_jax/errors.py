"""The exceptions for bad input, and the exception for a signal."""

import re

_LONGEST = 2000
_END = 400
"""Maximum length of a message, and length of its end if the middle is cut."""


_MARK = "\0"
"""Before the name of an argument in a message that is not shown yet."""
_MARKED = re.compile(_MARK + r"([a-z]\w*)")


def argument(name: str) -> str:
    """Return the name of an argument, marked, for the message of an ``InputError``.

    Python shows it as it is, a command as the flag of that name:

    >>> error = InputError(f"{argument('beta')} is nan; expected a finite number")
    >>> str(error)
    'beta is nan; expected a finite number'
    >>> error.with_flags()
    '--beta is nan; expected a finite number'
    """
    return f"{_MARK}{name}"


def with_flags(text: str) -> str:
    """Return a text with the flags of a command in place of its marked arguments; see ``argument``.

    >>> with_flags(f"leave {argument('aligned')} out")
    'leave --aligned out'
    """
    return _MARKED.sub(r"--\1", text)


class InputError(ValueError):
    """The caller's input cannot be used.

    The message is one line that says what was found, where (file, tensor, module or row), what was
    expected, and what to do. Commands print it unchanged and exit with status 1.

    Names and values in it may come from untrusted files: line ends become spaces, control characters become
    escapes, and the middle of a very long message is cut, so that a terminal can show it safely.

    Attributes:
      marked: the message with its arguments marked, for a message that contains it; see ``argument``.
    """

    def __init__(self, message: object = ""):
        self.marked: str = message.marked if isinstance(message, InputError) else str(message)
        super().__init__(one_line(_MARKED.sub(r"\1", self.marked)))

    def with_flags(self) -> str:
        """Return the message with the flags of a command in place of the arguments."""
        return one_line(with_flags(self.marked))


class UnsupportedModel(InputError):
    """A model of a kind that has no forward pass here."""


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


def reason_of(error: BaseException) -> str:
    """Return the first line of another library's error, or the error's type if it has no text.

    >>> reason_of(OSError("no such device\\nsee the manual")), reason_of(MemoryError())
    ('no such device', 'MemoryError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
