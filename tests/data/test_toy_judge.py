"""The rule judge: every form of refusal and of answer, and everything that is neither."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.toy_judge import COMPLIED, ODD, REFUSED, judge_all
from nlsr_jax.data.toy_words import ANSWERS, REFUSALS
from nlsr_jax.data.toy_world import all_words, make_world
from tests.data.toy_requests import every_request

WORLD = make_world(jax.random.key(0))
ASKED = every_request(WORLD)
REQUESTS = st.sampled_from(list(ASKED.values()))
VERBS = {verb for category in WORLD.categories for verb in category.verbs}
TOOLS = {tool for category in WORLD.categories for tool in category.tools}
WORDS = sorted(all_words(WORLD))
FORBIDDEN, BENIGN = (next(r for r in ASKED.values() if r.category == index) for index in (3, 20))


def judge(request, text):
    (found,) = judge_all(WORLD, [request], [text])
    return found


def fill(form, request, **changes):
    words = {"verb": request.verb, "thing": request.thing, "tool": WORLD.categories[request.category].tools[1]}
    return form.format(**words | changes)


@pytest.mark.parametrize("request_", [FORBIDDEN, BENIGN], ids=["forbidden", "benign"])
@pytest.mark.parametrize("form", REFUSALS)
def test_every_refusal(form, request_):
    """A refusal refuses whatever it was asked, and whatever thing it names."""
    assert judge(request_, fill(form, request_)) == REFUSED
    assert judge(request_, fill(form, request_, thing="zarn")) == REFUSED


@pytest.mark.parametrize("request_", [FORBIDDEN, BENIGN], ids=["forbidden", "benign"])
@pytest.mark.parametrize("form", ANSWERS)
def test_every_answer(form, request_):
    assert judge(request_, fill(form, request_)) == COMPLIED


@given(REQUESTS, st.sampled_from(ANSWERS), st.integers(0, 2))
def test_answers_comply(request, form, tool):
    assert judge(request, fill(form, request, tool=WORLD.categories[request.category].tools[tool])) == COMPLIED


@given(REQUESTS, st.sampled_from(REFUSALS), st.sampled_from(WORDS))
def test_refusals_refuse(request, form, thing):
    assert judge(request, form.format(thing=thing)) == REFUSED


@given(REQUESTS, st.sampled_from(ANSWERS), st.sampled_from(WORDS), st.sampled_from(["verb", "thing", "tool"]))
def test_an_answer_with_one_other_word(request, form, word, slot):
    """The thing must be the one asked about; verb and tool, any of the world."""
    right = {"verb": word in VERBS, "thing": word == request.thing, "tool": word in TOOLS}[slot]
    assert judge(request, fill(form, request, **{slot: word})) == (COMPLIED if right else ODD)


@given(REQUESTS, st.lists(st.sampled_from([*WORDS, ".", ",", ":"]), max_size=14).map(" ".join))
def test_words_without_a_form_are_odd(request, text):
    """No form is as short as these draws would have to hit by chance."""
    assert judge(request, text) == ODD


@given(REQUESTS, st.sampled_from([*ANSWERS, *REFUSALS]), st.data())
def test_texts_that_are_cut_or_go_on_are_odd(request, form, data):
    words = fill(form, request).split()
    length = data.draw(st.integers(1, len(words) - 1))
    assert judge(request, " ".join(words[:length])) == ODD
    assert judge(request, " ".join(words[length:])) == ODD
    assert judge(request, " ".join(words[length:] + words[:length])) == ODD
    more = data.draw(st.lists(st.sampled_from([*WORDS, "."]), min_size=1, max_size=6))
    assert judge(request, " ".join([*words, *more])) == ODD
    assert judge(request, " ".join([*more, *words])) == ODD


@given(REQUESTS, st.sampled_from([*ANSWERS, *REFUSALS]), st.sampled_from([*ANSWERS, *REFUSALS]))
def test_two_texts_in_one_are_odd(request, first, second):
    assert judge(request, f"{fill(first, request)} {fill(second, request)}") == ODD


@pytest.mark.parametrize("text", ["", " ", "\n", ".", "zarn zarn", "yes", "I am sorry , i cannot help with that ."])
def test_texts_that_are_nothing_of_it(text):
    assert judge(FORBIDDEN, text) == judge(BENIGN, text) == ODD


def test_an_answer_without_a_slots_word_is_odd():
    for form in (*ANSWERS, *(form for form in REFUSALS if "{" in form)):
        gone = " ".join(word for word in form.split() if "{" not in word)
        assert judge(FORBIDDEN, gone) == ODD
    assert judge(FORBIDDEN, fill(ANSWERS[0], FORBIDDEN, tool="zarn zarn")) == ODD


def test_spaces_do_not_matter():
    text = fill(ANSWERS[1], FORBIDDEN)
    assert judge(FORBIDDEN, "  " + text.replace(" ", "\n ") + " ") == COMPLIED


def test_forms_are_told_apart():
    """No refusal reads as an answer or the other way round, and a dot of a form is a dot."""
    assert len({*ANSWERS, *REFUSALS}) == len(ANSWERS) + len(REFUSALS) == 15
    for form in (*ANSWERS, *REFUSALS):
        assert judge(FORBIDDEN, fill(form, FORBIDDEN).replace(" .", " ,")) == ODD


@given(st.lists(st.tuples(REQUESTS, st.sampled_from([*ANSWERS, *REFUSALS, "zarn"])), max_size=8))
def test_all_together_as_one_by_one(pairs):
    requests = [request for request, _ in pairs]
    # Neighbours' things: what one request complied with is odd for the next.
    texts = [fill(form, other) for (_, form), other in zip(pairs, [*requests[1:], *requests[:1]], strict=True)]
    assert judge_all(WORLD, requests, texts) == [judge(*pair) for pair in zip(requests, texts, strict=True)]


def test_as_many_responses_as_requests():
    with pytest.raises(ValueError, match="shorter"):
        judge_all(WORLD, [FORBIDDEN, BENIGN], ["zarn"])
