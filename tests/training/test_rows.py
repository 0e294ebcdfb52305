"""Rows of every objective: KTO's mismatched pairs, flags that stay with their rows, kinds that are refused."""

import numpy as np
import pytest

from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.errors import InputError
from nlsr_jax.training.rows import mismatched, training_rows
from nlsr_jax.training.settings import TrainingSettings
from tests.data.test_encoding import make_tokenizer

EXAMPLES = [
    Example("how do i", "no sorry", "safe"),
    Example("brew zarn", "heat it", "harmful"),
    Example("do it", "sorry", "benign"),
    Example("how", "brew it", "task"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def texts(found, tokenizer):
    """Each row's texts as ``(prompt, response)`` strings."""
    shown = []
    for first, starts, lengths in zip(*found.packed[1:], strict=True):
        row = []
        for at, start, length in zip(first, starts, lengths, strict=True):
            words = tokenizer.convert_ids_to_tokens(found.packed.ids[at : at + length].tolist())
            row.append((" ".join(words[:start]), " ".join(words[start:])))
        shown.append(row)
    return shown


def make(rows, tokenizer, objective, max_length=16):
    settings = TrainingSettings(objective=objective, max_length=max_length)
    return training_rows(rows, tokenizer, settings, special_tokens=True)


def test_mismatched_pairs_take_the_next_rows_response():
    assert mismatched(EXAMPLES) == [
        Preference("how do i", "no sorry", "heat it"),
        Preference("brew zarn", "heat it", "sorry"),
        Preference("do it", "sorry", "brew it"),
        Preference("how", "brew it", "no sorry"),
    ]
    with pytest.raises(InputError, match="KTO needs at least two rows"):
        mismatched(EXAMPLES[:1])


def test_kto_rows(tokenizer):
    found = make(EXAMPLES, tokenizer, "kto")
    assert texts(found, tokenizer)[:2] == [
        [("<s> how do i", "no sorry </s>"), ("<s> how do i", "heat it </s>")],
        [("<s> brew zarn", "heat it </s>"), ("<s> brew zarn", "sorry </s>")],
    ]
    assert found.desirable.dtype == bool
    assert found.desirable.tolist() == [True, False, True, True]
    assert found.counts["used"] == 4


def test_flags_stay_with_their_rows_where_others_are_skipped(tokenizer):
    long = Example("how " * 20, "no", "harmful")
    rows = [long, EXAMPLES[0], EXAMPLES[1], long, long, EXAMPLES[1], EXAMPLES[2]]
    found = make(rows, tokenizer, "kto", max_length=12)
    assert found.counts["skipped_long_prompt"] == 3
    assert [row[0][0] for row in texts(found, tokenizer)] == [
        "<s> how do i",
        "<s> brew zarn",
        "<s> brew zarn",
        "<s> do it",
    ]
    assert found.desirable.tolist() == [True, False, False, True]


def test_sft_takes_examples_of_all_kinds(tokenizer):
    found = make(EXAMPLES, tokenizer, "sft")
    assert found.desirable is None
    assert found.packed.lengths.shape == (4, 1)
    assert texts(found, tokenizer)[1] == [("<s> brew zarn", "heat it </s>")]


@pytest.mark.parametrize("objective", ["dpo", "orpo", "simpo"])
def test_preferences_are_chosen_and_rejected(tokenizer, objective):
    found = make([Preference("how do i", "no", "heat it"), Preference("how", "it", "no")], tokenizer, objective)
    assert found.desirable is None
    assert texts(found, tokenizer) == [
        [("<s> how do i", "no </s>"), ("<s> how do i", "heat it </s>")],
        [("<s> how", "it </s>"), ("<s> how", "no </s>")],
    ]


def test_prompts_of_a_chat_template_get_no_second_bos(tokenizer):
    settings = TrainingSettings(max_length=16)
    found = training_rows([Example("<s> how", "no")], tokenizer, settings, special_tokens=False)
    assert texts(found, tokenizer) == [[("<s> how", "no </s>")]]


def test_rows_of_the_wrong_kind_are_refused(tokenizer):
    pair = Preference("how", "no", "it")
    for objective in ("sft", "kto"):
        with pytest.raises(InputError, match=f"objective {objective} takes Example rows, found Preference"):
            make([EXAMPLES[0], pair], tokenizer, objective)
    for objective in ("dpo", "orpo", "simpo"):
        with pytest.raises(InputError, match=f"objective {objective} takes Preference rows, found Example"):
            make([pair, EXAMPLES[0]], tokenizer, objective)
    with pytest.raises(InputError, match="takes Example rows, found none"):
        make([], tokenizer, "sft")
    with pytest.raises(InputError, match="at least two rows"):
        make(EXAMPLES[:1], tokenizer, "kto")
    with pytest.raises(InputError, match="none of the 4 rows fits"):
        make(EXAMPLES, tokenizer, "sft", max_length=2)


def test_lengths_are_cut_to_the_longest_allowed(tokenizer):
    found = make([Example("how", "no " * 30)], tokenizer, "sft", max_length=9)
    assert found.packed.lengths.tolist() == [[9]]
    assert found.counts["cut_responses"] == 1
    assert np.asarray(found.packed.starts).tolist() == [[2]]
