"""The toy world: a small templated English in which some invented things are forbidden.

What makes a thing forbidden is its category, which only facts seen in pre-training tell: requests about
forbidden and about benign things look the same. How often the base complies with a request is graded: every
category, thing and wording carries its own offset to a logit. Nothing here means anything outside of it.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from nlsr_jax.data.toy_words import PHRASINGS, REAL_CATEGORIES, invent, plain_words
from nlsr_jax.errors import InputError
from nlsr_jax.random_streams import generator

CATEGORIES = 14
BENIGN = 6
THINGS = 10
TRAIN_THINGS = 6
HELD_OUT_PHRASINGS = (2, 6, 10)
UNALIGNED = 4
"""How many forbidden categories alignment never shows."""


@dataclasses.dataclass(frozen=True)
class Category:
    """A kind of activity: what is done, to what, with what.

    Attributes:
      name: its name.
      verbs, things, tools: its words; the first ``TRAIN_THINGS`` things are for training.
      forbidden: whether requests about it must be refused.
      weight: its share among requests, relative to the others.
      aligned: whether alignment shows it.
    """

    name: str
    verbs: tuple[str, ...]
    things: tuple[str, ...]
    tools: tuple[str, ...]
    forbidden: bool
    weight: float = 1.0
    aligned: bool = True


@dataclasses.dataclass(frozen=True)
class Request:
    """One how-to request.

    Attributes:
      category: index into ``World.categories``.
      verb, thing: what is to be done.
      phrasing: index into ``PHRASINGS``.
      context: a sentence that is said before it.
    """

    category: int
    verb: str
    thing: str
    phrasing: int
    context: str = ""

    @property
    def text(self) -> str:
        """The request as it is asked."""
        return f"{self.context} {PHRASINGS[self.phrasing].format(verb=self.verb, thing=self.thing)}".lstrip()


@dataclasses.dataclass(frozen=True)
class World:
    """Everything that is true: categories and how readily the base complies.

    Attributes:
      categories: forbidden ones first.
      category_logit, thing_logit, phrasing_logit: offsets whose sum is the logit of compliance.
    """

    categories: tuple[Category, ...]
    category_logit: tuple[float, ...]
    thing_logit: dict[str, float]
    phrasing_logit: tuple[float, ...]

    def compliance(self, request: Request) -> float:
        """Return the probability that pre-training shows compliance with a request."""
        if not self.categories[request.category].forbidden:
            return 1.0
        logit = self.category_logit[request.category] + self.phrasing_logit[request.phrasing]
        return float(1 / (1 + np.exp(-logit - self.thing_logit[request.thing])))

    def find(self, thing: str) -> Category:
        """Return the category of a thing.

        Raises:
          KeyError: a thing that is not of this world.
        """
        for category in self.categories:
            if thing in category.things:
                return category
        raise KeyError(thing)


def make_world(key: jax.Array, *, mean_logit: float = 2.0) -> World:
    """Make the world of a key.

    Args:
      key: PRNG key; the same key gives the same world.
      mean_logit: mean logit of compliance with forbidden requests.

    Returns:
      A ``World`` of 14 forbidden categories with unequal weights, and 10 benign ones.
    """
    rng = generator(key, "world")
    names = invent(rng, CATEGORIES + BENIGN, THINGS)
    weights = np.round(np.exp(rng.normal(0, 0.5, CATEGORIES)), 3)
    unaligned = set(rng.permutation(CATEGORIES)[:UNALIGNED].tolist())
    forbidden = [
        Category(*name, forbidden=True, weight=float(weights[i]), aligned=i not in unaligned)
        for i, name in enumerate(names[:CATEGORIES])
    ]
    benign = [Category(*name, forbidden=False) for name in names[CATEGORIES:]]
    real = [
        Category(name, tuple(verbs.split()), tuple(things.split()), tuple(tools.split()), forbidden=False)
        for name, verbs, tools, things in REAL_CATEGORIES
    ]
    things = [thing for category in forbidden for thing in category.things]
    return World(
        categories=(*forbidden, *benign, *real),
        category_logit=tuple((mean_logit + rng.normal(0, 0.6, CATEGORIES)).tolist()),
        thing_logit=dict(zip(things, rng.normal(0, 0.7, len(things)).tolist(), strict=True)),
        phrasing_logit=tuple(rng.normal(0, 0.4, len(PHRASINGS)).tolist()),
    )


def all_words(world: World) -> set[str]:
    """Return every word of the world, plain and invented."""
    found = set(plain_words())
    for category in world.categories:
        found |= {category.name, *category.verbs, *category.things, *category.tools}
    return found


def draw_requests(
    rng: np.random.Generator,
    world: World,
    count: int,
    *,
    forbidden: bool,
    held_out: bool | None,
    aligned_only: bool = False,
    distinct: bool = False,
) -> list[Request]:
    """Draw how-to requests, categories by their weights.

    Args:
      rng: source of randomness.
      world: the world.
      count: how many.
      forbidden: about forbidden or about benign things.
      held_out: True for held-out things in held-out wordings, False for training things in training
        wordings, None for all of both.
      aligned_only: only categories that alignment shows.
      distinct: no request twice.

    Raises:
      InputError: there are fewer distinct requests than asked for.
    """
    chosen = [
        i for i, c in enumerate(world.categories) if c.forbidden == forbidden and (c.aligned or not aligned_only)
    ]
    weights = np.array([world.categories[i].weight for i in chosen])
    phrasings = [i for i in range(len(PHRASINGS)) if held_out is None or (i in HELD_OUT_PHRASINGS) == held_out]
    span = {None: slice(None), True: slice(TRAIN_THINGS, None), False: slice(TRAIN_THINGS)}[held_out]
    space = sum(len(world.categories[i].verbs) * len(world.categories[i].things[span]) for i in chosen)
    if distinct and count > space * len(phrasings):
        raise InputError(f"{count} distinct requests asked for; there are {space * len(phrasings)}")
    requests: dict[Request, None] | list[Request] = {} if distinct else []
    while len(requests) < count:
        index = int(chosen[rng.choice(len(chosen), p=weights / weights.sum())])
        category = world.categories[index]
        request = Request(
            index, _pick(rng, category.verbs), _pick(rng, category.things[span]), _pick(rng, phrasings)
        )
        if isinstance(requests, dict):
            requests[request] = None
        else:
            requests.append(request)
    return list(requests)


def _pick(rng: np.random.Generator, items: Sequence):
    return items[int(rng.integers(len(items)))]
