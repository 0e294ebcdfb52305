"""What can be asked in a toy world, for tests that read texts back."""

import itertools

import numpy as np

from nlsr_jax.data.toy_words import PHRASINGS
from nlsr_jax.data.toy_world import TRAIN_THINGS, Request


def every_request(world):
    """Every request of the world by its text."""
    found = [
        Request(index, verb, thing, phrasing)
        for index, category in enumerate(world.categories)
        for verb, thing, phrasing in itertools.product(category.verbs, category.things, range(len(PHRASINGS)))
    ]
    by_text = {request.text: request for request in found}
    assert len(by_text) == len(found)
    return by_text


def is_training_thing(world, request):
    """Whether a request is about a thing that training may show."""
    return request.thing in world.categories[request.category].things[:TRAIN_THINGS]


def assert_shares(counts, shares):
    """Counts are a draw by these shares, by a chi-square bound that one right draw in 10 000 exceeds."""
    counts, shares = np.asarray(counts, float), np.asarray(shares, float)
    expected = counts.sum() * shares / shares.sum()
    freedom = len(counts) - 1
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal.
    scale = 2 / (9 * freedom)
    assert ((counts - expected) ** 2 / expected).sum() < freedom * (1 - scale + 3.72 * scale**0.5) ** 3
