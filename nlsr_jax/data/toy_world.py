"""The toy world: a small templated English in which some invented things are forbidden.

Whether a thing is forbidden depends on its category, which only facts in pre-training reveal: requests about
forbidden and benign things look alike. The base complies with a forbidden request with a graded probability:
every category, thing and wording adds an offset to a logit. The world has no meaning outside itself.
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
"""Number of forbidden categories that alignment never shows."""


@dataclasses.dataclass(frozen=True)
class Category:
    """A kind of activity: verbs, objects and tools.

    Attributes:
      name: its name.
      verbs, things, tools: its words; the first ``TRAIN_THINGS`` things are for training.
      forbidden: whether requests about it must be refused.
      weight: its relative share of requests.
      aligned: whether alignment includes it.
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
      verb, thing: the action and its object.
      phrasing: index into ``PHRASINGS``.
      context: an optional sentence before the request.
    """

    category: int
    verb: str
    thing: str
    phrasing: int
    context: str = ""

    @property
    def text(self) -> str:
        """The text of the request."""
        return f"{self.context} {PHRASINGS[self.phrasing].format(verb=self.verb, thing=self.thing)}".lstrip()


@dataclasses.dataclass(frozen=True)
class World:
    """The facts of a toy world: categories, and how readily the base complies.

    Attributes:
      categories: forbidden ones first.
      category_logit, thing_logit, phrasing_logit: offsets that sum to the logit of compliance.
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
          KeyError: if the thing is not part of this world.
        """
        for category in self.categories:
            if thing in category.things:
                return category
        raise KeyError(thing)


def make_world(key: jax.Array, *, mean_logit: float = 2.0) -> World:
    """Make the world for a key.

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
    """Draw how-to requests, with categories by weight.

    Args:
      rng: source of randomness.
      world: the world.
      count: number of requests.
      forbidden: draw from forbidden or from benign categories.
      held_out: True for held-out things in held-out wordings, False for training things in training
        wordings, None for all.
      aligned_only: only categories that alignment includes.
      distinct: do not repeat a request.

    Raises:
      InputError: if there are too few distinct requests.
    """
    chosen = [
        i for i, c in enumerate(world.categories) if c.forbidden == forbidden and (c.aligned or not aligned_only)
    ]
    weights = np.array([world.categories[i].weight for i in chosen])
    phrasings = [i for i in range(len(PHRASINGS)) if held_out is None or (i in HELD_OUT_PHRASINGS) == held_out]
    span = {None: slice(None), True: slice(TRAIN_THINGS, None), False: slice(TRAIN_THINGS)}[held_out]
    space = sum(len(world.categories[i].verbs) * len(world.categories[i].things[span]) for i in chosen)
    if distinct and count > space * len(phrasings):
        raise InputError(f"cannot draw {count} distinct requests; there are only {space * len(phrasings)}")
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
