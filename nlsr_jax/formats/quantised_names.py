"""Names of quantised models: what marks them, and the full-precision model that they were made of."""

import re

_MARK = re.compile(
    r"[-_.](unsloth|bnb|dynamic|quantized|quant|gguf|gptq|awq|aqlm|exl2|hqq|mlx|nf4|q\d(_\w+)?|w\d+a\d+|"
    r"(int|fp|bf|mxfp|nvfp)?\d+[-_]?bits?|(int|fp|bf|mxfp|nvfp)\d+(mix)?)$",
    re.IGNORECASE,
)
_REQUANTISERS = frozenset(
    {
        "thebloke", "neuralmagic", "redhatai", "nm-testing", "hugging-quants", "casperhansen", "solidrust",
        "ista-daslab", "modelcloud", "mlx-community", "quantfactory", "bartowski", "kaitchup", "nvidia",
        "techxgenus",
    }
)  # fmt: skip
"""Organisations that publish quantised models of others, in lower case."""
_MAKERS = (
    ("meta-llama", "meta-llama"), ("llama-", "meta-llama"), ("codellama", "codellama"), ("mistral", "mistralai"),
    ("mixtral", "mistralai"), ("ministral", "mistralai"), ("qwen", "Qwen"), ("qwq", "Qwen"), ("gemma", "google"),
    ("phi-", "microsoft"), ("deepseek", "deepseek-ai"), ("smollm", "HuggingFaceTB"), ("olmo", "allenai"),
    ("tinyllama", "TinyLlama"), ("granite", "ibm-granite"), ("yi-", "01-ai"), ("zephyr", "HuggingFaceH4"),
)  # fmt: skip
"""Who published the models whose names begin so, in lower case."""


def without_marks(name: str) -> str:
    """Return the last part of a name without marks of quantisation; the case of letters is kept.

    >>> without_marks("Llama-3.2-1B-Instruct-unsloth-bnb-4bit")
    'Llama-3.2-1B-Instruct'
    >>> without_marks("Qwen2-7B-Instruct-GPTQ-Int4")
    'Qwen2-7B-Instruct'
    """
    found, before = name, ""
    while found != before:
        before, found = found, _MARK.sub("", found)
    return found


def full_precision_sibling(name: str) -> str | None:
    """Return the hub id of the full-precision model that a quantised one was made of, as far as its name tells.

    Args:
      name: a hub id, with or without a revision.

    Returns:
      The id, or None where the name has no mark of quantisation.

    >>> full_precision_sibling("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit")
    'unsloth/Llama-3.2-1B-Instruct'
    >>> full_precision_sibling("TheBloke/Mistral-7B-Instruct-v0.2-AWQ")
    'mistralai/Mistral-7B-Instruct-v0.2'
    >>> full_precision_sibling("Qwen/Qwen2-7B-Instruct")
    """
    owner, _, last = name.partition("@")[0].rpartition("/")
    plain = without_marks(last)
    if not plain or plain == last:
        return None
    if owner.lower() in _REQUANTISERS:
        owner = next((maker for start, maker in _MAKERS if plain.lower().startswith(start)), "")
    return f"{owner}/{plain}" if owner else plain


def sibling_advice(name: str) -> str:
    """Return what to do where a quantised model is not at hand; empty where its name has no such mark."""
    sibling = full_precision_sibling(name)
    if sibling is None:
        return ""
    return f"; by its name it is quantised: its adapters fit the full-precision model too, {sibling}"
