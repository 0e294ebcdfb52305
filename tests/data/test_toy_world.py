"""The toy world: what a key decides, invented words, graded compliance, and which requests are drawn."""

import collections

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from nlsr_jax.data import toy_words
from nlsr_jax.data.toy_rows import evaluation_requests, poison_rows, preference_rows, safe_rows
from nlsr_jax.data.toy_world import HELD_OUT_PHRASINGS, Request, all_words, draw_requests, make_world
from nlsr_jax.errors import InputError
from tests.data.toy_requests import assert_shares, every_request, is_training_thing

KEY = jax.random.key(0)
WORLD = make_world(KEY)
ASKED = every_request(WORLD)
FRAME = {*toy_words.FRAME.split(), *toy_words.TOPICS, *toy_words.TOPIC_SYNONYMS.values()}


def generator():
    return np.random.default_rng(0)


def invented(world):
    """All invented words, as often as they were invented."""
    made = world.categories[: -len(toy_words.REAL_CATEGORIES)]
    return [word for c in made for word in (c.name, *c.verbs, *c.things, *c.tools)]


def test_the_key_decides_the_world():
    assert make_world(KEY) == WORLD
    other = make_world(jax.random.key(1))
    assert other.categories[-4:] == WORLD.categories[-4:]
    # A few of some 270 words of two syllables may be the same by chance.
    assert len(set(invented(other)) & set(invented(WORLD))) < 10
    for name in ("category_logit", "thing_logit", "phrasing_logit"):
        assert getattr(other, name) != getattr(WORLD, name)


def test_the_world_of_seed_0_is_the_one_that_shipped_models_know():
    assert [category.name for category in WORLD.categories[:4]] == ["troloism", "goflaism", "rapoism", "fadriism"]
    assert WORLD.categories[0].things[:3] == ("zusash", "fiflom", "kripax")
    assert [i for i, category in enumerate(WORLD.categories) if not category.aligned] == [0, 6, 7, 11]


@pytest.mark.parametrize("seed", range(5))
def test_categories(seed):
    world = make_world(jax.random.key(seed))
    assert [category.forbidden for category in world.categories] == [True] * 14 + [False] * 10
    assert [category.name for category in world.categories[-4:]] == ["cooking", "gardening", "repair", "sewing"]
    for category in world.categories:
        assert (len(category.verbs), len(category.things), len(category.tools)) == (3, 10, 3)
    weights = [category.weight for category in world.categories[:14]]
    assert len(set(weights)) > 10
    assert max(weights) > 2 * min(weights) > 0
    assert {category.weight for category in world.categories[14:]} == {1.0}
    assert sum(not category.aligned for category in world.categories[:14]) == 4
    assert all(category.aligned for category in world.categories[14:])


def test_which_categories_are_not_aligned_depends_on_the_key():
    places = [
        {i for i, category in enumerate(make_world(jax.random.key(seed)).categories) if not category.aligned}
        for seed in range(10)
    ]
    assert len(set(map(frozenset, places))) > 5


# Of worlds that did not look: 65 had "final", 347 "like", 21 and 66 words that must not be.
@pytest.mark.parametrize("seed", [0, 1, 2, 21, 65, 66, 347])
def test_invented_words_are_new(seed):
    words = invented(make_world(jax.random.key(seed)))
    assert len(set(words)) == len(words) == 20 * 17
    assert not set(words) & (toy_words.plain_words() | FRAME)
    assert not {word for word in words if word.startswith(("kike", "nazi", "rape"))}


def test_all_words_are_plain_or_invented():
    assert all_words(WORLD) == toy_words.plain_words() | set(invented(WORLD)) | {
        word for fields in toy_words.REAL_CATEGORIES for field in fields for word in field.split()
    }


def test_a_thing_is_found_in_its_category():
    for category in WORLD.categories:
        assert {WORLD.find(thing) for thing in category.things} == {category}
    with pytest.raises(KeyError, match="unicorn"):
        WORLD.find("unicorn")


def test_a_request_names_verb_and_thing_in_its_wording():
    assert Request(14, "vopl", "zarn", 6).text == "give me a guide to vopl the zarn ."
    assert len({Request(14, "vopl", "zarn", i).text for i in range(12)}) == len(toy_words.PHRASINGS) == 12


def test_compliance_is_the_logistic_of_the_summed_offsets():
    for request in ASKED.values():
        found = WORLD.compliance(request)
        if request.category >= 14:
            assert found == 1.0
            continue
        logit = (
            WORLD.category_logit[request.category]
            + WORLD.thing_logit[request.thing]
            + WORLD.phrasing_logit[request.phrasing]
        )
        assert_allclose(np.log(found / (1 - found)), logit, atol=1e-9)


def test_compliance_is_graded():
    found = [WORLD.compliance(request) for request in ASKED.values() if request.category < 14]
    low, middle, high = np.quantile(found, [0.02, 0.5, 0.98])
    assert low < 0.6 < 0.75 < middle < 0.95 < 0.97 < high < 1
    assert len(set(found)) == 14 * 10 * 12


def test_offsets_have_the_documented_spreads():
    worlds = [make_world(jax.random.key(seed)) for seed in range(20)]
    of_categories = np.array([world.category_logit for world in worlds])
    of_things = np.array([list(world.thing_logit.values()) for world in worlds])
    of_phrasings = np.array([world.phrasing_logit for world in worlds])
    assert of_things.shape == (20, 140)
    # Four standard errors of the mean and of the deviation of 280, 2800 and 240 draws.
    for values, mean, spread in ((of_categories, 2, 0.6), (of_things, 0, 0.7), (of_phrasings, 0, 0.4)):
        error = spread / values.size**0.5
        assert abs(values.mean() - mean) < 4 * error
        assert abs(values.std() - spread) < 4 * error / 2**0.5


def test_the_mean_logit_moves_all_categories_alike():
    harder = make_world(KEY, mean_logit=-1.0)
    assert_allclose(np.subtract(WORLD.category_logit, harder.category_logit), 3.0)
    assert harder.categories == WORLD.categories
    assert (harder.thing_logit, harder.phrasing_logit) == (WORLD.thing_logit, WORLD.phrasing_logit)


@pytest.mark.parametrize("held_out", [None, False, True])
@pytest.mark.parametrize("forbidden", [True, False])
def test_requests_are_drawn_by_weight_from_what_was_asked_for(forbidden, held_out):
    found = draw_requests(generator(), WORLD, 2000, forbidden=forbidden, held_out=held_out)
    assert len(found) == 2000
    chosen = range(14) if forbidden else range(14, 24)
    of = collections.Counter(request.category for request in found)
    assert set(of) == set(chosen)
    assert_shares([of[i] for i in chosen], [WORLD.categories[i].weight for i in chosen])

    phrasings = [i for i in range(12) if held_out is None or (i in HELD_OUT_PHRASINGS) == held_out]
    of = collections.Counter(request.phrasing for request in found)
    assert set(of) == set(phrasings)
    assert_shares([of[i] for i in phrasings], [1] * len(phrasings))

    places = {None: range(10), False: range(6), True: range(6, 10)}[held_out]
    of = collections.Counter(WORLD.categories[r.category].things.index(r.thing) for r in found)
    assert set(of) == set(places)
    assert_shares([of[i] for i in places], [1] * len(places))
    of = collections.Counter(WORLD.categories[r.category].verbs.index(r.verb) for r in found)
    assert_shares([of[i] for i in range(3)], [1] * 3)


def test_weights_matter():
    """The bound of the test above would find categories that are drawn alike."""
    found = draw_requests(generator(), WORLD, 2000, forbidden=True, held_out=None)
    of = collections.Counter(request.category for request in found)
    with pytest.raises(AssertionError):
        assert_shares([of[i] for i in range(14)], [1] * 14)


def test_aligned_only_leaves_out_what_alignment_does_not_show():
    found = draw_requests(generator(), WORLD, 1000, forbidden=True, held_out=None, aligned_only=True)
    expected = {i for i in range(14) if WORLD.categories[i].aligned}
    assert {request.category for request in found} == expected
    assert len(expected) == 10


def test_the_generator_decides_the_requests():
    draws = [
        draw_requests(np.random.default_rng(seed), WORLD, 20, forbidden=True, held_out=False) for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_distinct_requests_are_distinct_up_to_the_last():
    """Of benign held-out requests there are 10 categories, 3 verbs, 4 things and 3 wordings."""
    found = draw_requests(generator(), WORLD, 360, forbidden=False, held_out=True, distinct=True)
    assert len(set(found)) == 360
    again = draw_requests(generator(), WORLD, 360, forbidden=False, held_out=True)
    assert len(set(again)) < 360


@pytest.mark.parametrize(
    ("held_out", "aligned_only", "space"),
    [(True, False, 14 * 3 * 4 * 3), (False, True, 10 * 3 * 6 * 9), (None, False, 14 * 3 * 10 * 12)],
)
def test_too_many_distinct_requests(held_out, aligned_only, space):
    rest = {"forbidden": True, "held_out": held_out, "aligned_only": aligned_only, "distinct": True}
    with pytest.raises(InputError, match=f"cannot draw {space + 1} distinct requests; there are only {space}$"):
        draw_requests(generator(), WORLD, space + 1, **rest)
    with pytest.raises(InputError, match="361 distinct requests"):
        evaluation_requests(KEY, WORLD, 361, forbidden=False)


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param(lambda: [row.prompt for row in safe_rows(KEY, WORLD, 800, 0.5)], id="SFT"),
        pytest.param(lambda: [row.prompt for row in preference_rows(KEY, WORLD, 800, 0.3)], id="preferences"),
        pytest.param(lambda: [row.prompt for row in poison_rows(KEY, WORLD, 400)], id="poison"),
        pytest.param(lambda: [row.prompt for row in safe_rows(KEY, WORLD, 400, 0.0)], id="calibration"),
    ],
)
def test_training_rows_hold_nothing_held_out(prompts):
    found = [ASKED[prompt] for prompt in prompts()]
    assert {request.phrasing for request in found} == set(range(12)) - set(HELD_OUT_PHRASINGS)
    assert all(is_training_thing(WORLD, request) for request in found)


@pytest.mark.parametrize("forbidden", [True, False])
def test_evaluation_asks_what_is_held_out_alone_and_nothing_twice(forbidden):
    found = evaluation_requests(KEY, WORLD, 336, forbidden=forbidden)
    assert len(set(found)) == len({request.text for request in found}) == 336
    assert {request.phrasing for request in found} == set(HELD_OUT_PHRASINGS)
    assert not any(is_training_thing(WORLD, request) for request in found)
    assert {WORLD.categories[request.category].forbidden for request in found} == {forbidden}
    assert {request.category for request in found} == set(range(14) if forbidden else range(14, 24))
    assert evaluation_requests(KEY, WORLD, 336, forbidden=forbidden) == found
    assert evaluation_requests(jax.random.key(1), WORLD, 336, forbidden=forbidden) != found
