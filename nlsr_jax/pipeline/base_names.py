"""Do the adapters of a run name the base that it is given, as far as names tell?"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

_CACHED = re.compile(r"models--[^/]+?--([^/]+)/snapshots/[^/]+$")
_QUANTISED = re.compile(
    r"[-_.](unsloth|bnb|dynamic|quantized|quant|gguf|gptq|awq|aqlm|exl2|hqq|mlx|nf4|q\d(_\w+)?|w\d+a\d+|"
    r"(int|fp|bf|mxfp|nvfp)?\d+[-_]?bits?|(int|fp|bf|mxfp|nvfp)\d+(mix)?)$"
)


def plain_name(name: Any) -> str | None:
    """Return what two names of one model have in common, None where nothing is named.

    Args:
      name: a hub id or a folder: the last part counts, in lower case and without marks of quantisation, such as
        ``-bnb-4bit`` or ``-GPTQ-Int4``. Of a snapshot in the hub's cache it is that of the id.

    >>> plain_name("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit")
    'llama-3.2-1b-instruct'
    >>> plain_name("/models/Llama-3.2-1B-Instruct/")
    'llama-3.2-1b-instruct'
    """
    if not isinstance(name, str) or not name.strip():
        return None
    path = name.strip().replace("\\", "/").rstrip("/")
    cached = _CACHED.search(path)
    last = cached.group(1) if cached else path.rsplit("/", 1)[-1]
    if last in ("", ".", ".."):
        last = pathlib.Path(path or "/").resolve().name
    found, before = last.lower(), ""
    while found != before:
        before, found = found, _QUANTISED.sub("", found)
    return found or None


def note_bases(named: Mapping[str, Any]) -> list[str]:
    """Say where inputs name different base models.

    Args:
      named: ``{input: name}``: what ``--base`` is, and ``base_model_name_or_path`` of the adapters' configs.

    Returns:
      One note, or none where all that is named agrees.
    """
    plain = {who: plain_name(name) for who, name in named.items()}
    if len({name for name in plain.values() if name is not None}) < 2:
        return []
    shown = ", ".join(f"{who} {named[who]}" for who, name in plain.items() if name is not None)
    return [
        f"the base models differ by name: {shown}; adapters of different bases have nothing in common, "
        "so make sure that these are one model"
    ]
