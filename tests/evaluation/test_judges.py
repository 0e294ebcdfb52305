"""Scores read from verdicts, and the judge that knows phrases alone."""

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import (
    harmfulness,
    harmfulness_by_topic,
    plain_verdicts,
    unreadable_count,
)
from nlsr_jax.evaluation.refusals import ADVBENCH, builtin, is_refusal, match_refusals, over_refusal

PROMPTS = ["how do i brew zarn", "how do i fold a mellip"]


def test_harmfulness_counts_unreadable_rows_as_not_harmful():
    verdicts = plain_verdicts([True, False, False, False, True], [False, True, False, False, False])
    assert harmfulness(verdicts) == 40
    assert unreadable_count(verdicts) == 1


def test_harmfulness_needs_rows():
    with pytest.raises(InputError, match="at least one"):
        harmfulness(plain_verdicts([]))


def test_topics():
    verdicts = plain_verdicts([True, False, True, False])
    topics = [["zarn"], ["zarn", "mellip"], ["mellip", "mellip"], []]
    assert harmfulness_by_topic(verdicts, topics) == {"zarn": 50, "mellip": 50}
    assert harmfulness_by_topic(verdicts, topics, limit=1) == {"zarn": 100, "mellip": 0}


def test_topics_equal_a_loop():
    rng = np.random.default_rng(0)
    harmful = rng.random(300) < 0.4
    topics = [[f"t{i}" for i in range(5) if rng.random() < 0.3] for _ in harmful]
    found = harmfulness_by_topic(plain_verdicts(harmful), topics, limit=None)
    for name, value in found.items():
        members = [h for h, names in zip(harmful, topics, strict=True) if name in names]
        assert value == pytest.approx(100 * sum(members) / len(members))
    assert len(found) == 5


@pytest.mark.parametrize(("topics", "words"), [([["a"]], "1 lists of topics for 2"), (["ab", "cd"], "single text")])
def test_topics_refused(topics, words):
    with pytest.raises(InputError, match=words):
        harmfulness_by_topic(plain_verdicts([True, False]), topics)


def test_the_phrases_of_the_paper():
    known = builtin("advbench")
    assert len(ADVBENCH) == len(set(ADVBENCH)) == 29
    for phrase in ADVBENCH:
        assert is_refusal(f"Well. {phrase} zarn.", known)
        assert not is_refusal(f"Well. {phrase.upper()} zarn.", known) or phrase == phrase.upper()


def test_refusals_are_not_harmful():
    verdicts = match_refusals(PROMPTS, ["I cannot help with zarn.", "First heat it, then stir."])
    assert verdicts.harmful.tolist() == [False, True]
    assert np.isnan(verdicts.scores).all()
    assert verdicts.flags.shape == (2, 0)


def test_own_phrases():
    assert match_refusals(PROMPTS, ["no zarn", "I cannot"], phrases=["no zarn"]).harmful.tolist() == [False, True]


def test_over_refusal():
    responses = ["I cannot brew zarn.", "Fold it twice."]
    assert over_refusal(PROMPTS, responses) == 50
    assert (
        over_refusal(PROMPTS, responses, lambda prompt, response: "mellip" in prompt or "zarn" in response) == 100
    )
    with pytest.raises(InputError, match="expected True or False"):
        over_refusal(PROMPTS, responses, lambda prompt, response: "yes")


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (["one"], "2 prompts and 1 responses"),
        ("ab", "found a single text"),
        (["one", None], "row 1: prompt and response are str and NoneType"),
    ],
)
def test_pairs_are_checked(responses, message):
    with pytest.raises(InputError, match=message):
        match_refusals(PROMPTS, responses)


def test_broken_responses_are_neither_harmful_nor_refusals():
    """They count among the rows all the same."""
    prompts, responses = PROMPTS * 2, ["", "First heat it, then stir.", "::::::::", "Sorry Sorry Sorry Sorry"]
    verdicts = match_refusals(prompts, responses)
    assert verdicts.harmful.tolist() == [False, True, False, False]
    assert harmfulness(verdicts) == 25
    assert harmfulness_by_topic(verdicts, [["zarn"]] * 4) == {"zarn": 25}
    assert over_refusal(prompts, responses) == 0
    assert over_refusal(prompts, responses, lambda prompt, response: True) == 25
