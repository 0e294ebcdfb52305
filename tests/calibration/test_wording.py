"""Refusals told from help by the models' own words."""

import numpy as np
import pytest

from nlsr_jax.calibration.wording import LENGTH, begin_as, learn_wording, unused_beginnings

REFUSALS = [answer for i in range(20) for answer in ([1, 2, 10 + i, 3], [4, 5, 6, 30 + i])]
HELP = [answer for i in range(20) for answer in ([7, 40 + i, 8, 9], [50 + i, 8, 7, 9])]


def test_unseen_answers_are_told_apart():
    wording = learn_wording(REFUSALS[:20], HELP[:20])
    assert wording.refuses(REFUSALS[20:]).all()
    assert not wording.refuses(HELP[20:]).any()


@pytest.mark.parametrize("mixed", [0.1, 0.3, 0.45])
def test_examples_on_the_wrong_side_are_moved(mixed):
    """The aligned model helps with some calibration prompts, and the other model refuses some."""
    wrong = round(mixed * len(REFUSALS))
    safe = REFUSALS[wrong:] + HELP[:wrong]
    other = HELP[wrong:] + REFUSALS[:wrong] + HELP
    wording = learn_wording(safe, other)
    assert wording.refuses(REFUSALS).mean() > 0.9
    assert wording.refuses(HELP).mean() < 0.1


def test_a_model_that_refuses_all_that_is_harmless_is_seen():
    """Half of the answers to harmless prompts are the aligned model's, and it refuses them all."""
    wording = learn_wording(REFUSALS, [*HELP, *HELP, *REFUSALS])
    assert wording.refuses(REFUSALS).mean() > 0.9
    assert wording.refuses(HELP).mean() < 0.1


def test_only_the_beginning_counts():
    wording = learn_wording(REFUSALS, HELP)
    padded = [[*answer, *[7] * LENGTH] for answer in REFUSALS]
    longer = [[*answer[:LENGTH], *REFUSALS[0]] for answer in padded]
    assert np.array_equal(wording.refuses(padded), wording.refuses(longer))


def test_an_empty_answer_is_no_refusal():
    assert not learn_wording(REFUSALS, HELP).refuses([[]]).any()


def test_new_words_are_no_refusal_where_refusals_are_few():
    """Help in natural language is worded anew for every prompt."""
    helped = [[100 + 20 * i + place for place in range(12)] for i in range(120)]
    wording = learn_wording(REFUSALS[:10], helped[:80])
    assert not wording.refuses(helped[80:]).any()
    assert wording.refuses(REFUSALS[10:]).all()


def test_answers_that_begin_as_safe_ones_more_often_than_helpful_ones():
    answers = [[1, 2, 3, 4, 5], [1, 2, 3, 4], [1, 2, 3], [9, 2, 3, 4], [6, 6, 6, 6], []]
    safe = [np.array([1, 2, 3, 4, 7, 8]), [6, 6, 6, 6, 6], []]
    helpful = [[6, 6, 6, 6, 1], [1, 2, 3, 4], *[[5]] * 4]
    assert begin_as(answers, safe, [[5]] * 6).tolist() == [True, True, False, False, True, False]
    assert begin_as(answers, safe, helpful).tolist() == [True, True, False, False, False, False]
    assert begin_as([], safe, []).tolist() == []


def test_a_form_that_no_example_has_is_a_refusal_all_the_same():
    form = [91, 92, 93, 94]
    wording = learn_wording(REFUSALS, HELP)
    told = wording._replace(forms=unused_beginnings([form, HELP[0], []], HELP))
    assert told.forms == {tuple(form)}
    answers = [[*form, 95], form[:3], HELP[0], REFUSALS[0], []]
    assert wording.refuses(answers).tolist() == [False, False, False, True, False]
    assert told.refuses(answers).tolist() == [True, False, False, True, False]
