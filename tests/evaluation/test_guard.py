"""The guard: its reading of verdicts, and a guard whose words and probabilities are known."""

import dataclasses

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.guard import CATEGORIES, guard, read_verdicts
from tests.evaluation.machines import add_end, make_machine, make_tokenizer

CHAT = "<s> check{% for turn in messages %} {{ turn.role }} : {{ turn.content | trim }}{% endfor %}"
WORDS = ["check", "user", "assistant", ":", "brew", "zarn", "stir", "sorry", "perhaps"]
WORDS += ["safe", "unsafe", "S1", "S9", "so"]
END = {"</s>": 9.0}
# After "perhaps" come two line ends first; what follows them must be looked up there, not at the start.
TABLE = {
    "stir": {"unsafe": 3.0, "safe": 1.0},
    "sorry": {"safe": 2.0, "unsafe": 0.5},
    "perhaps": {"\n": 4.0, "safe": 3.0},
    "zarn": {"so": 4.0, "unsafe": 3.0},
    "unsafe": {"\n": 9.0},
    "safe": END,
    "\n": {"unsafe": 1.5, "safe": 1.0, "S9": 1.0},
    "S9": END,
    "so": END,
}


@pytest.fixture(scope="module")
def judge():
    tokenizer = make_tokenizer(WORDS, CHAT)
    return *make_machine(tokenizer, TABLE), tokenizer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


RESPONSES = ["stir", "sorry", "perhaps", "brew zarn", "stir stir sorry"]
CHANCES = [sigmoid(3.0 - 1.0), sigmoid(0.5 - 2.0), sigmoid(1.5 - 1.0), sigmoid(3.0 - 0.0), sigmoid(0.5 - 2.0)]


def test_verdicts_in_words(judge):
    verdicts = guard(*judge, ["brew"] * 5, RESPONSES, batch_size=2)
    assert verdicts.harmful.tolist() == [True, False, True, False, False]
    assert verdicts.unreadable.tolist() == [False, False, False, True, False]
    assert np.isnan(verdicts.scores).all()


def test_probabilities_are_the_machines(judge):
    verdicts = guard(*judge, ["brew"] * 5, RESPONSES, probability=True, batch_size=2)
    np.testing.assert_allclose(verdicts.scores, CHANCES, atol=1e-5)  # float32 of a handful of operations
    assert verdicts.harmful.tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("threshold", [0.1, 0.7])
def test_threshold_decides(judge, threshold):
    verdicts = guard(*judge, ["brew"] * 5, RESPONSES, threshold=threshold)
    expected = np.asarray(CHANCES) > threshold
    expected[3] = False  # what cannot be read is never harmful
    assert verdicts.harmful.tolist() == expected.tolist()


def test_categories():
    verdicts = read_verdicts(["unsafe\nS1,S10", "\n\nunsafe\n S2", "safe", "unsafe", "safe\nS3", "unsafe\nO4"])
    assert verdicts.categories == (*CATEGORIES, "O4")
    named = [[n for n, f in zip(verdicts.categories, row, strict=True) if f] for row in verdicts.flags]
    assert named == [["S1", "S10"], ["S2"], [], [], [], ["O4"]]
    assert verdicts.harmful.tolist() == [True, True, False, True, False, True]
    assert not verdicts.unreadable.any()


@pytest.mark.parametrize("answer", ["", "Unsafe", "safely done", "it is unsafe", "S1"])
def test_unreadable(answer):
    verdicts = read_verdicts([answer])
    assert verdicts.unreadable.tolist() == [True]
    assert verdicts.harmful.tolist() == [False]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template"),
        ("{{ messages[0].content }}", "omits the response"),
        ("{{ messages[0].content[0].text.x.y }}", "cannot render"),
    ],
)
def test_other_tokenizers_are_refused(judge, template, words):
    tokenizer = make_tokenizer(WORDS, template)
    with pytest.raises(InputError, match=words):
        guard(*judge[:2], tokenizer, ["brew"], ["stir"])


def test_one_token_for_both_words_is_refused(judge):
    tokenizer = make_tokenizer([word for word in WORDS if word not in ("safe", "unsafe")], CHAT)
    with pytest.raises(InputError, match="the same token"):
        guard(*judge[:2], tokenizer, ["brew"], ["stir"], probability=True)


@pytest.mark.parametrize("threshold", [0, 1, 50])
def test_thresholds_that_are_no_probabilities(judge, threshold):
    with pytest.raises(InputError, match="threshold"):
        guard(*judge, ["brew"], ["stir"], threshold=threshold)


def test_a_guard_stops_at_every_end_token_and_refuses_tokens_that_it_has_not():
    tokenizer = make_tokenizer(WORDS, CHAT)
    table = {"stir": {"unsafe": 3.0}, "unsafe": {"\n": 9.0}, "\n": {"S9": 9.0}, "S9": END, "</s>": {"safe": 9.0}}
    model, params = make_machine(tokenizer, table)
    whole = guard(model, params, tokenizer, ["brew"], ["stir"])
    assert whole.flags[0, CATEGORIES.index("S9")]
    config = dataclasses.replace(model.config, end_tokens=(tokenizer.get_vocab()["\n"],))
    short = guard(dataclasses.replace(model, config=config), params, tokenizer, ["brew"], ["stir"])
    assert short.harmful.all()
    assert not short.flags.any()
    add_end(tokenizer)
    assert guard(model, params, tokenizer, ["brew"], ["stir"]).flags.tolist() == whole.flags.tolist()
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match=r"row 1: tokens run from .*'<new>' has no row"):
        guard(model, params, tokenizer, ["brew"] * 2, ["stir", "stir <new>"])


def test_broken_responses_are_not_asked_about(judge):
    responses = ["", "stir", "stir stir stir stir", "brew zarn", " \n"]
    verdicts = guard(*judge, ["brew"] * 5, responses, threshold=0.5)
    assert verdicts.harmful.tolist() == [False, True, False, False, False]
    assert verdicts.unreadable.tolist() == [False, False, False, True, False]
    assert np.isfinite(verdicts.scores).tolist() == [False, True, False, True, False]
    assert verdicts.flags.shape == (5, len(verdicts.categories))
    nobody = guard(None, None, None, ["brew"], ["..."])
    assert (nobody.harmful.tolist(), nobody.flags.shape) == ([False], (1, 14))


def test_invisible_characters_do_not_hide_a_verdict():
    found = read_verdicts(["\u200bunsafe\u00a0\nS1,S2", "\ufeffsafe"])
    assert found.harmful.tolist() == [True, False]
    assert found.flags[0].tolist()[:3] == [True, True, False]
    assert not found.unreadable.any()
