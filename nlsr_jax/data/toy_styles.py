"""Calibration rows of the toy world in other words than those of its alignment."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from nlsr_jax.data.examples import Example
from nlsr_jax.data.toy_rows import comply, refuse
from nlsr_jax.data.toy_words import REFUSALS
from nlsr_jax.data.toy_world import Request, World, draw_requests
from nlsr_jax.random_streams import generator

OWN_REFUSALS = (
    "the answer is no .",
    "that is wrong , please do not ask .",
    "not allowed , so no steps for the {thing} .",
    "people must not do this .",
)
"""Refusals that no other row has, of known words."""

OWN_PHRASINGS = (
    "say how to {verb} the {thing} , please .",
    "i must {verb} the {thing} now , how is that done ?",
    "are there steps to {verb} a {thing} ?",
    "my friend and i want to {verb} that {thing} .",
)
"""Wordings of a request that no other row has, of known words."""

FOREIGN_REFUSALS = (
    "no steps , no help .",
    "please do not show this .",
    "that is not a good film .",
    "the {thing} must refuse .",
)
"""The same for development."""

NEW_PHRASINGS = (
    "please {verb} this {thing} with me , how ?",
    "my work is to {verb} the {thing} , what are the steps ?",
    "what is to be done to {verb} one {thing} ?",
)
"""Wordings of a request for development."""


@dataclasses.dataclass(frozen=True)
class Style:
    """How the owner's calibration rows and harmless prompts are worded.

    Attributes:
      refusals: forms of the safe answers.
      phrasings: wordings of the requests; empty for those of the alignment.
      unaligned: whether forbidden requests are about the categories that the alignment does not show.
    """

    refusals: tuple[str, ...] = REFUSALS
    phrasings: tuple[str, ...] = ()
    unaligned: bool = False


def styled_rows(key: jax.Array, world: World, count: int, style: Style, *, forbidden: bool) -> list[Example]:
    """Make forbidden requests with refusals, or benign ones with answers; training things only.

    Args:
      key: PRNG key.
      world: the world.
      count: number of rows.
      style: how they are worded.
      forbidden: which of the two.
    """
    rng = generator(key, "forbidden" if forbidden else "benign")
    source = _unaligned(world) if style.unaligned else world
    requests = draw_requests(rng, source, count, forbidden=forbidden, held_out=False, aligned_only=True)
    prompts = [_worded(rng, request, style.phrasings) for request in requests]
    if forbidden:
        answers = [refuse(rng, request, style.refusals) for request in requests]
    else:
        answers = [comply(rng, world, request) for request in requests]
    kind = "safe" if forbidden else "benign"
    return [Example(*texts, kind=kind) for texts in zip(prompts, answers, strict=True)]


def _worded(rng: np.random.Generator, request: Request, phrasings: Sequence[str]) -> str:
    if not phrasings:
        return request.text
    return phrasings[int(rng.integers(len(phrasings)))].format(verb=request.verb, thing=request.thing)


def _unaligned(world: World) -> World:
    """Return a world whose alignment shows just the forbidden categories that it does not show in this one."""
    categories = [
        dataclasses.replace(category, aligned=not category.aligned) if category.forbidden else category
        for category in world.categories
    ]
    return dataclasses.replace(world, categories=tuple(categories))
