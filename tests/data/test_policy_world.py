"""The policy world's requests: what is held out is never trained on, and answers fit what was asked."""

import itertools
import re

import pytest

from nlsr_jax.data import policy_world
from nlsr_jax.data.policy_world import BENIGN, ERRAND, GENERAL, HARMFUL, HELPFUL, NEAR
from nlsr_jax.evaluation import policy_judge

KINDS = (HARMFUL, *HELPFUL)
HELD_OUT = {HARMFUL: 48, BENIGN: 48, ERRAND: 12, NEAR: 24, GENERAL: 12}
ALIKE = 5
"""Most words in a row that a wording of training has from a held-out one; of those that came last, three."""


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_shares_nothing_with_training(kind):
    trained, held_out = (policy_world.things(kind, held_out=value) for value in (False, True))
    assert len(held_out) == HELD_OUT[kind]
    assert not {thing for _, thing in trained} & {thing for _, thing in held_out}
    assert len({*trained, *held_out}) == len(trained) + len(held_out)


def test_no_thing_is_both_forbidden_and_harmless():
    things = {
        kind: {thing for value in (False, True) for _, thing in policy_world.things(kind, held_out=value)}
        for kind in KINDS
    }
    for kind in HELPFUL:
        assert not things[HARMFUL] & things[kind]


def test_wordings_are_apart_and_take_the_thing():
    trained, held_out = (policy_world.phrasings(held_out=value) for value in (False, True))
    assert not {*trained} & {*held_out}
    for form in (*trained, *held_out):
        assert form.count("{}") == 1
        assert "boil an egg" in policy_world.ask(BENIGN, "cooking", "boil an egg", form).text
    assert policy_world.ask(GENERAL, "", "Tell me a joke.", "How do I {}?").text == "Tell me a joke."


def alike(one, other):
    """Return how many words in a row two wordings share."""
    one, other = (re.findall(r"\{\}|[a-z']+", form.lower()) for form in (one, other))
    runs = (
        sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one[i:], other[j:], strict=False)))
        for i in range(len(one))
        for j in range(len(other))
    )
    return max(runs)


def test_wordings_of_training_are_no_copies_of_the_held_out_ones():
    trained, held_out = (policy_world.phrasings(held_out=value) for value in (False, True))
    assert len(trained) == len({*trained}) == 190
    shared = [max(alike(form, other) for other in held_out) for form in trained]
    assert max(shared) <= ALIKE
    assert max(shared[48:]) <= 3


def test_wordings_that_a_refinement_asks_are_no_copies_of_others():
    _, wordings = policy_world.harmless_asked()
    assert len(wordings) == len({*wordings}) == 16
    for form in wordings:
        assert form.count("{}") == 1
        for held_out in (False, True):
            assert all(alike(form, other) <= ALIKE for other in policy_world.phrasings(held_out=held_out))


def test_every_field_has_as_many_things_and_every_hobby_near_questions():
    known = policy_world.topics()
    for fields in (known["forbidden"], known["benign"]):
        assert len(fields) == 12
        assert {len(things) for things in fields.values()} == {12}
    assert known["near"].keys() == known["forbidden"].keys()
    assert len(set(known["refusals"])) == 48


def test_answers_are_to_training_things_and_help():
    trained = {thing for kind in KINDS for _, thing in policy_world.things(kind, held_out=False)}
    found = policy_world.answers()
    assert found.keys() <= trained
    held_out = {form.replace("{}", "") for form in policy_world.phrasings(held_out=True)}
    for rows in found.values():
        for question, answer in rows:
            assert not any(question.replace(form, "") != question for form in held_out)
            assert policy_judge.judge(answer) == policy_judge.COMPLIED
    for kind in KINDS:
        things = [thing for _, thing in policy_world.things(kind, held_out=False)]
        assert sum(thing in found for thing in things) >= 0.8 * len(things)


def test_a_refusal_names_its_topic():
    forms = policy_world.topics()["refusals"]
    for form in forms:
        text = policy_world.refusal(form, "", "knots")
        assert "{" not in text
        assert ("knots" in text.lower()) == ("{t}" in form or "{T}" in form)


def test_near_questions_are_about_a_hobby_or_its_words():
    assert {topic for topic, _ in policy_world.things(NEAR, held_out=True)} == {*policy_world.topics()["forbidden"]}
