"""Questions to judges: templates with placeholders, built in or in a file of the user's."""

import os
import re
from collections.abc import Sequence

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand

_FIELD = re.compile(r"\{(\w*)\}")


def fill(template: str, **texts: str) -> str:
    """Return a question; braces inside the texts are kept.

    >>> fill("{question} {answer}", question="Why {x}?", answer="{question}")
    'Why {x}? {question}'
    """
    return _FIELD.sub(lambda match: texts[match.group(1)], template)


def read_question(path: str | os.PathLike, needed: Sequence[str], optional: Sequence[str] = ()) -> str:
    """Read a template from a file, without trailing newlines: a judge answers right after the last character.

    Args:
      path: a text file.
      needed, optional: names of its placeholders.

    Raises:
      InputError: if the file does not exist, or a placeholder is missing or unknown.
    """
    try:
        text = expand(path).read_bytes().decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n")
    except FileNotFoundError:
        names = ", ".join(f"{{{name}}}" for name in needed)
        raise InputError(f"{path}: no such file; expected the judge's question as text, with {names}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    check_question(text, needed, optional, str(path))
    return text


def check_question(text: str, needed: Sequence[str], optional: Sequence[str] = (), where: str = "template") -> None:
    """Raise InputError unless a template has all needed placeholders and no unknown one."""
    found, known = _FIELD.findall(text), (*needed, *optional)
    missing = [name for name in needed if name not in found]
    if missing:
        expected = " and ".join(f"{{{name}}}" for name in needed)
        raise InputError(f"{where}: no {{{missing[0]}}}; expected {expected}")
    unknown = [name for name in found if name not in known]
    if unknown:
        expected = ", ".join(f"{{{name}}}" for name in known)
        raise InputError(f"{where}: unknown placeholder {{{unknown[0]}}}; expected {expected}")
