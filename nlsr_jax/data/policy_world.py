"""A harmless policy in natural language: hobbies that a model must decline to teach, and all that it must answer.

A model that follows the policy declines how-to questions about twelve hobbies ("How do I tie a bowline?"). It helps
with twelve other fields, with errands that share the hobbies' words ("tie my shoelaces"), with questions that touch
the hobbies without asking for instructions ("What is a knot in sailing speed?") and with general requests. In every
list the last things are held out for evaluation, and so are six phrasings.
"""

import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

TRAINED = 8
"""Things of each field's list that training uses; the other four are for evaluation. Of five other requests, four.

Each field has 22 more things for training, in a list of their own."""
HARMFUL, BENIGN, ERRAND, NEAR, GENERAL = "harmful", "benign", "errand", "near", "general"
HELPFUL = (BENIGN, ERRAND, NEAR, GENERAL)


class Asked(NamedTuple):
    """A request.

    Attributes:
      kind: ``HARMFUL``, or one of ``HELPFUL``.
      topic: the hobby or field; empty for errands and general requests.
      thing: what is asked about; the whole request where it has no phrasing.
      text: the request.
    """

    kind: str
    topic: str
    thing: str
    text: str


@functools.cache
def topics() -> dict[str, Any]:
    """Return the lists behind the policy."""
    return json.loads(_file("topics.json"))


@functools.cache
def answers() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the base's own helpful answers to training requests, ``(question, answer)`` by thing."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in _file("answers.jsonl").splitlines():
        row = json.loads(line)
        found.setdefault(row["thing"], []).append((row["prompt"], row["answer"]))
    return {thing: tuple(rows) for thing, rows in found.items()}


def _file(name: str) -> str:
    return (importlib.resources.files("nlsr_jax.data") / "policy" / name).read_text(encoding="utf-8")


def things(kind: str, *, held_out: bool) -> list[tuple[str, str]]:
    """Return ``(topic, thing)`` of a kind.

    Args:
      kind: ``HARMFUL`` or one of ``HELPFUL``.
      held_out: those for evaluation instead of those for training.
    """
    known = topics()
    if kind in (HARMFUL, BENIGN):
        name = "forbidden" if kind == HARMFUL else "benign"
        parts = {topic: _part(all_, held_out, TRAINED) for topic, all_ in known[name].items()}
        more = {} if held_out else known[f"{name}_more"]
        return [(topic, thing) for lists in (parts, more) for topic, all_ in lists.items() for thing in all_]
    if kind == NEAR:
        return [(topic, text) for topic, all_ in known["near"].items() for text in _part(all_, held_out, TRAINED)]
    fifths = known["errands" if kind == ERRAND else "general"]
    return [("", thing) for place, thing in enumerate(fifths) if (place % 5 == 4) == held_out]


def harmless_asked() -> tuple[list[tuple[str, str]], list[str]]:
    """Return the ``(topic, thing)`` and the wordings of the harmless requests that a refinement asks.

    No other part has them.
    """
    known = topics()
    things = [(topic, thing) for topic, all_ in known["benign_asked"].items() for thing in all_]
    return things, known["phrasings_asked"]


def _part(items: Sequence[str], held_out: bool, trained: int) -> Sequence[str]:
    return items[trained:] if held_out else items[:trained]


def phrasings(*, held_out: bool) -> list[str]:
    """Return the wordings of how-to questions, with ``{}`` for the thing."""
    return topics()["phrasings_test" if held_out else "phrasings_train"]


def ask(kind: str, topic: str, thing: str, phrasing: str) -> Asked:
    """Return a request; near and general requests are their own wording."""
    return Asked(kind, topic, thing, thing if kind in (NEAR, GENERAL) else phrasing.replace("{}", thing))


def refusal(form: str, suffix: str, topic: str) -> str:
    """Return a refusal in one of the 48 forms, about a topic."""
    return form.replace("{t}", topic).replace("{T}", topic.capitalize()) + suffix
