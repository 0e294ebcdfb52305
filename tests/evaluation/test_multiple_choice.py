"""Multiple choice: log-likelihoods that are known by hand, and the scores read from them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.multiple_choice import Question, answer_choices, score_choices
from nlsr_jax.models import likelihood
from tests.evaluation.machines import MARKS, add_end, make_machine, make_tokenizer

WORDS = ["brew", "zarn", "stir", "slowly", "fold", "mellip", "twice"]
TABLE = {
    "zarn": {"stir": 3.0, "fold": 1.0, "zarn": -1.0},
    "stir": {"slowly": 2.0, "twice": 1.5},
    "fold": {"twice": 2.5},
    "mellip": {"fold": 2.0},
    "<s>": {"brew": 1.0},
}
SIZE = len(MARKS) + len(WORDS)


@pytest.fixture(scope="module")
def machine():
    tokenizer = make_tokenizer(WORDS)
    return *make_machine(tokenizer, TABLE), tokenizer


def chance(before, after):
    """The log-probability of one word after another, straight from the table."""
    row = TABLE.get(before, {})
    total = sum(np.exp(x) for x in row.values()) + SIZE - len(row)
    return row.get(after, 0.0) - np.log(total)


def chain(*words):
    return sum(chance(a, b) for a, b in itertools.pairwise(words))


ONE = Question(("brew zarn",), ("stir slowly", "fold twice", "stir"), (False, True, False))
TWO = Question(("brew zarn ", "fold mellip"), ("fold twice", "fold twice"), (False, True))
LONG = Question(("brew " * 40 + "mellip",), ("fold", "stir slowly"), (True, False))
TRUTHS = [
    [chain("zarn", "stir", "slowly"), chain("zarn", "fold", "twice"), chain("zarn", "stir")],
    [chain("zarn", "fold", "twice"), chain("mellip", "fold", "twice")],
    [chain("mellip", "fold"), chain("mellip", "stir", "slowly")],
]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_log_likelihoods_are_the_machines(machine, batch_size):
    found = answer_choices(*machine, [ONE, TWO, LONG], batch_size=batch_size)
    assert [len(values) for values in found] == [3, 2, 2]
    for ours, expected in zip(found, TRUTHS, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_long_contexts_lose_their_beginning(machine):
    whole = answer_choices(*machine, [LONG])
    cut = answer_choices(*machine, [LONG], max_length=3)
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-5)  # the machine looks at one word alone
    with pytest.raises(InputError, match="question 0: a choice has 2 tokens"):
        answer_choices(*machine, [LONG], max_length=1)


def test_an_empty_context_goes_on_from_the_first_token(machine):
    question = Question(("",), ("brew zarn", "stir"), (True, False))
    expected = [chain("<s>", "brew", "zarn"), chain("<s>", "stir")]
    for special in (False, True):
        (found,) = answer_choices(*machine, [question], special_tokens=special)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_tokenizer_without_a_first_token_is_refused(machine):
    model, params, tokenizer = machine
    tokenizer = make_tokenizer(WORDS)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"question 0: .*no context"):
        answer_choices(model, params, tokenizer, [Question(("",), ("brew", "stir"), (True, False))])


def test_one_program_per_bucket(machine):
    likelihood._log_likelihood.clear_cache()
    for _ in range(2):
        answer_choices(*machine, [ONE, TWO, LONG, ONE], batch_size=2)
    assert likelihood._log_likelihood._cache_size() == 2  # up to 32 and up to 64 tokens


def test_scores():
    questions = [
        Question(("q",), ("aa", "bbbb"), (True, False)),
        Question(("q",), ("aa", "bbbb"), (False, True)),
        Question(("q",), ("éé", "bbb", "c"), (True, True, False)),
    ]
    found = [np.log([0.6, 0.4]), np.log([0.6, 0.4]), np.log([0.15, 0.25, 0.6])]
    scores = score_choices(questions, found)
    assert scores.acc.tolist() == [1, 0, 0]
    # By bytes: log .6 / 2 = -.255 against log .4 / 4 = -.229; é has two, so -.474, -.462 and -.511.
    assert scores.acc_norm.tolist() == [0, 1, 1]
    np.testing.assert_allclose(scores.mc2, [0.6, 0.4, 0.4])


def test_norm_counts_bytes():
    found = [np.asarray([-2.8, -2.4])]  # -.7 and -.8 by bytes, -1.4 and -.8 by characters
    assert score_choices([Question(("q",), ("éé", "bbb"), (True, False))], found).acc_norm.tolist() == [1]


def test_a_space_that_ends_the_context_belongs_to_the_choice(machine):
    question = Question(("brew zarn ",), ("stir slowly", "fold"), (True, False))
    (found,) = answer_choices(*machine, [question], delimiter="")
    np.testing.assert_allclose(found, [chain("zarn", "stir", "slowly"), chain("zarn", "fold")], atol=1e-5)


@given(st.lists(st.floats(-1000, 0), min_size=2, max_size=6), st.data())
def test_mc2_is_a_probability(values, data):
    correct = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)).filter(any))
    choices = tuple("x" * (i + 1) for i in range(len(values)))
    one = score_choices([Question(("q",), choices, tuple(correct))], [np.asarray(values)])
    assert 0 <= one.mc2[0] <= 1
    if not all(correct):
        other = score_choices([Question(("q",), choices, tuple(not c for c in correct))], [np.asarray(values)])
        assert one.mc2[0] + other.mc2[0] == pytest.approx(1)
        assert one.acc[0] + other.acc[0] == 1


@pytest.mark.parametrize(
    "question",
    [
        Question(("a",), ("b",), (True,)),
        Question(("a", "b"), ("c", "d", "e"), (True, False, False)),
        Question(("a",), ("c", "d"), (False, False)),
        Question(("a",), ("c", "d"), (True,)),
        Question(("a",), ("c", ""), (True, False)),
        Question("ab", ("c", "d"), (True, False)),
    ],
)
def test_questions_are_checked(machine, question):
    with pytest.raises(InputError, match="question 1"):
        answer_choices(*machine, [ONE, question])


def test_scores_need_every_choice():
    with pytest.raises(InputError, match="question 0"):
        score_choices([ONE], [np.zeros(2)])


@pytest.mark.parametrize("special", [False, True])
def test_an_end_token_that_the_tokenizer_adds_is_no_part_of_a_choice(machine, special):
    model, params, tokenizer = machine
    bare = Question(("",), ("brew", "stir slowly"), (True, False))
    expected = answer_choices(model, params, tokenizer, [ONE, TWO, bare], special_tokens=special)
    ending = make_tokenizer(WORDS)
    add_end(ending)
    found = answer_choices(model, params, ending, [ONE, TWO, bare], special_tokens=special)
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


def test_a_choice_with_a_token_that_the_embedding_has_not_is_refused(machine):
    model, params, _ = machine
    tokenizer = make_tokenizer(WORDS)
    tokenizer.add_tokens(["<new>"])
    odd = Question(("brew",), ("stir", "stir <new>"), (True, False))
    with pytest.raises(InputError, match=r"question 1: tokens run from .* to 11; the vocabulary has 11"):
        answer_choices(model, params, tokenizer, [ONE, odd])
