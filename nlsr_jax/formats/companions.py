"""The files beside an adapter's weights: tokenizer, chat template, model card and notes, carried into the output.

What is carried is chosen by name, at the top of the folder alone: text, JSON and tokenizer models. Pickles,
optimizer states, checkpoints and other weights are never carried, nor links out of the folder.
"""

import fnmatch
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from nlsr_jax.files.large_file import copy_digested
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import is_regular, leads_outside

CARD = "README.md"
PATTERNS = (
    "*.json", "*.jsonl", "*.jinja", "*.txt", "*.md", "*.yaml", "*.yml", "*.model", "*.tiktoken", "*.bpe",
    "LICENSE*", "NOTICE*", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Names of companions; of the hub no other files are fetched beside the adapter itself."""
_OWN = frozenset(
    {
        "adapter_config.json", "adapter_model.safetensors", "adapters.safetensors", "masks.safetensors",
        "realignment.json", "identification.json", "training.json", "table.json", "check.json", "check.md",
        "check.xml", "answers.jsonl", "report.html", "metrics.jsonl",
    }
)  # fmt: skip
"""What a run writes or reads itself; of an earlier run these would say what is no longer so."""
_STATES = re.compile(r"(trainer_state|optimizer|scheduler|scaler|rng_state|global_step)\b.*|.*\.index\.json")
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
_NAME = re.compile(r"\w[\w.+ -]*")
_MOST = 200


class Companion(NamedTuple):
    """One file that is carried.

    Attributes:
      source: where it lies.
      name: its path in the output.
    """

    source: pathlib.Path
    name: str


class Companions(NamedTuple):
    """What of a folder is carried into an output.

    Attributes:
      folder: the adapter's.
      carried: by name.
      left_out: ``{name: why}`` of the other files at the top of the folder.
    """

    folder: pathlib.Path
    carried: tuple[Companion, ...]
    left_out: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Return what a record says of them: the source by the name in the output, and what was left out."""
        return {
            "files": {one.name: one.source.relative_to(self.folder).as_posix() for one in self.carried},
            "left_out": self.left_out,
        }

    def sources(self) -> list[pathlib.Path]:
        """Return the files to digest as an input."""
        return [one.source for one in self.carried]


def find_companions(folder: pathlib.Path) -> Companions:
    """Choose what of an adapter's folder is carried.

    A model card is kept under another name, ``README.customer.md``: the output has a card of its own, and what the
    customer's says of figures is of the adapter before its repair.

    Args:
      folder: of the fine-tuned adapter.
    """
    carried: list[Companion] = []
    left_out: dict[str, str] = {}
    places = sorted(p for p in folder.iterdir() if is_regular(p) and p.name not in _OWN)
    taken = {place.name for place in places}
    nested = sorted(p for p in folder.glob("additional_chat_templates/*.jinja") if is_regular(p))
    size = 0
    for place in [*places, *nested]:
        own = place.relative_to(folder).as_posix()
        why = _why_not(folder, own, len(carried), size)
        if why is not None:
            left_out[own] = why
            continue
        size += place.stat().st_size
        carried.append(Companion(place, _free_card(taken) if own == CARD else own))
    return Companions(folder, tuple(sorted(carried, key=lambda one: one.name)), left_out)


def copy_companions(companions: Companions, output: pathlib.Path) -> dict[str, str]:
    """Copy the files into an output folder, byte for byte.

    Args:
      companions: from ``find_companions``.
      output: a folder that exists.

    Returns:
      The SHA-256 by name.
    """
    digests = {}
    for source, name in companions.carried:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        digests[name] = copy_digested(source, output / name)
    return digests


def card_fields(companions: Companions) -> Mapping[str, str]:
    """Return the licence that the customer's model card states, of its front matter.

    Args:
      companions: from ``find_companions``.

    Returns:
      The lines of ``license``, ``license_name`` and ``license_link`` that have plain values, by field.
    """
    card = companions.folder / CARD
    if not any(one.source == card for one in companions.carried):
        return {}
    text = card.read_text(encoding="utf-8", errors="replace")
    front = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    found = re.findall(r"^(license(?:_name|_link)?): *([\w.:/#-]+) *\r?$", front[1], re.MULTILINE) if front else []
    return dict(found)


def _why_not(folder: pathlib.Path, name: str, count: int, size: int) -> str | None:
    """Say why a file is not carried; None where it is."""
    last = pathlib.PurePath(name)
    if last.suffix in _PICKLES:
        return "a pickle"
    if last.suffix == ".safetensors":
        return "weights"
    if _STATES.fullmatch(last.name):
        return "of a checkpoint"
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in PATTERNS) or not _NAME.fullmatch(last.name):
        return "of another kind"
    if leads_outside(folder, name) is not None:
        return "a link out of the folder"
    own = (folder / name).stat().st_size
    if own > LIMITS.companion_bytes:
        return f"of {own} bytes, more than {LIMITS.companion_bytes}"
    if size + own > LIMITS.companions_bytes or count == _MOST:
        return "more files than are carried"
    return None


def _free_card(taken: set[str]) -> str:
    """Return a name for the customer's model card that no other file has."""
    number, name = 1, "README.customer.md"
    while name in taken:
        number += 1
        name = f"README.customer.{number}.md"
    return name
