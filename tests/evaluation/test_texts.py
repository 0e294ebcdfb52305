"""Plain marks, and answers that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.toy_words import ANSWERS, REFUSALS
from nlsr_jax.evaluation.refusals import ADVBENCH, builtin, is_refusal
from nlsr_jax.evaluation.texts import is_broken, plain_text

REFUSED = "I'm sorry, but I can't assist with that."
APOSTROPHES = "’‘‛ʼʽˊ′＇´`ꞌ՚᾽᾿"


@pytest.mark.parametrize("mark", APOSTROPHES)
def test_a_refusal_is_one_with_every_apostrophe(mark):
    for phrase in ADVBENCH:
        assert is_refusal(f"Well. {phrase.replace(chr(39), mark)} zarn.", builtin("advbench"))
    assert is_refusal(REFUSED.replace("'", mark))


@pytest.mark.parametrize(
    "text",
    [
        "I’m sorry, but I can’t assist with that.",
        "I\u00a0cannot do this.",
        "I am\nsorry.",
        "I can\u200bnot do this.",
        "My\u202fapologies.",
        "Ｉ ｃａｎｎｏｔ do this.",
        "If you have any other non‑malicious requests, ask.",
        "If you have any other non–malicious requests, ask.",
        "\ufeffSorry",
    ],
)
def test_refusals_in_other_marks(text):
    assert is_refusal(text)
    assert is_refusal(text, builtin("advbench"))


@pytest.mark.parametrize("text", ["Such as an oven.", "so sorry", "I can, not that it matters", "Im here"])
def test_capitals_and_letters_still_count(text):
    assert not is_refusal(text)
    assert not is_refusal(text, builtin("advbench"))


def test_own_phrases_are_made_plain_too():
    assert is_refusal("That is 'not for me'.", ["‘not for me’"])
    assert not is_refusal("I know.", [" no "])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("“a” «b» „c‟", '"a" "b" "c"'),
        ("a — b – c − d", "a - b - c - d"),
        ("wait…", "wait..."),
        ("e\u0301 ﬁ", "é fi"),
        ("5 m² and ½", "5 m² and ½"),
        ("soft\u00adhyphen", "softhyphen"),
    ],
)
def test_plain_marks(text, plain):
    assert plain_text(text) == plain


@given(st.text())
def test_plain_text_stays_as_it_is(text):
    once = plain_text(text)
    assert plain_text(once) == once


BROKEN = [
    "", "  \n\t", "\u200b\ufeff", "</s>", "<s> </s>", "<|eot_id|>", "<pad><pad><pad>", "[PAD] [PAD]", "<unk>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|im_start|>assistant\n", "<｜end▁of▁sentence｜>",
    "<end_of_turn>", "<0x0A><0x0A>", "::::::::", ": : :", "...", "…", "?", "```", "\ufffd\ufffd", "\x00\x00",
    "the the the the the", "ofofofofof", "of the of the of the of the of", "aaaaaaaaaaaa", "1 1 1 1 1",
    "不不不不不不不不", "Step Step Step Step Ste",
]  # fmt: skip
SOUND = [
    "No.", "1", "4", "A", "haha", "2222", "yes yes", "the", "Stir it.", "I cannot help with that.", "不。",
    "First heat the zarn. " * 6, "I cannot help you with zarn. " * 6, "我不能帮助你。" * 5, "caf\ufffd",
    "Stir it</s>",
    "Use <b>zarn</b>.", "¿Qué?", "٣", "no no no", "Stir it. " * 9, "I cannot. " * 9,
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_answers_that_are_none(text):
    assert is_broken(text)
    assert not is_refusal(text)


@pytest.mark.parametrize("text", [*SOUND, REFUSED, *ANSWERS, *REFUSALS, *ADVBENCH])
def test_answers_that_are_judged(text):
    assert not is_broken(text)
