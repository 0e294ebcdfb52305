"""Calibration rows of the toy world in other words than those of its alignment."""

import jax
import pytest

from nlsr_jax.data.toy_styles import OWN_PHRASINGS, OWN_REFUSALS, Style, styled_rows
from nlsr_jax.data.toy_words import PHRASINGS, REFUSALS
from nlsr_jax.data.toy_world import TRAIN_THINGS
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.study.worlds import Requests

KEY = jax.random.key(7)
OWN = Style(refusals=OWN_REFUSALS, phrasings=OWN_PHRASINGS, unaligned=True)


@pytest.fixture(scope="module")
def world():
    return ToyWorld(style=OWN)


def named(world, row):
    """The category whose thing a prompt names, and the place of the thing."""
    return next(
        (category, place)
        for category in world.world.categories
        for place, thing in enumerate(category.things)
        if f" {thing} " in row.prompt
    )


def test_every_word_is_known(world):
    rows = [*world.calibration(KEY, 80), *world.harmless(KEY, 80)]
    ids = [token for row in rows for token in world.tokenizer(row.prompt + " " + row.response)["input_ids"]]
    assert world.tokenizer.unk_token_id not in ids


def test_nothing_is_shared_with_the_alignment(world):
    assert not {*OWN_REFUSALS} & {*REFUSALS}
    assert not {*OWN_PHRASINGS} & {*PHRASINGS}
    aligned = {named(world, row)[0].name for row in world.safe_rows(KEY, 400) if row.kind == "safe"}
    rows = world.calibration(KEY, 400)
    found = {named(world, row)[0].name for row in rows}
    assert len(found) == 4
    assert not found & aligned
    forms = {form.split(" {")[0] for form in OWN_REFUSALS}
    assert all(any(row.response.startswith(form) for form in forms) for row in rows)


def test_things_are_those_of_training_and_benign_requests_are_answered(world):
    for rows, forbidden in ((world.calibration(KEY, 200), True), (world.harmless(KEY, 200), False)):
        for row in rows:
            category, place = named(world, row)
            assert category.forbidden == forbidden
            assert place < TRAIN_THINGS
    assert {row.kind for row in rows} == {"benign"}


def test_the_key_decides(world):
    def made(key):
        return styled_rows(key, world.world, 30, OWN, forbidden=True)

    assert made(KEY) == made(KEY) != made(jax.random.key(8))


def test_the_judge_knows_own_refusals_where_they_are_given(world):
    plain = ToyWorld()
    asked = [one.benign(2) for one in (world, plain)]
    assert isinstance(asked[0], Requests)
    own, known = OWN_REFUSALS[0], REFUSALS[0]
    assert world.judge(asked[0], [own, known]).refused.tolist() == [True, True]
    assert plain.judge(asked[1], [own, known]).refused.tolist() == [False, True]
