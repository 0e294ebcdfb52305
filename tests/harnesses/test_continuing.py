"""Answers up to stop strings and likelihoods of continuations, against the model's own logits."""

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.harnesses.continuing import Sampling, answer_tokens, score_tokens
from nlsr_jax.harnesses.served import context_length, open_served
from nlsr_jax.harnesses.stopping import TokenTexts
from tests.adapter_files import save_inputs


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A tiny base with an adapter, and a context of 24 tokens."""
    folder = save_inputs(tmp_path_factory.mktemp("inputs"))
    return open_served(str(folder / "base"), str(folder / "finetuned"), max_length=24)


@pytest.fixture(scope="module")
def texts(served):
    return TokenTexts(served.tokenizer)


def logits(served, ids):
    found = nlsr_jax.logits(served.model, served.params, np.asarray([ids]), served.adapter)
    return np.asarray(found[0], np.float64)


def answers(served, texts, prompts, sampling, **options):
    return dict(answer_tokens(served, texts, prompts, sampling, **{"batch_size": 3, **options}))


PROMPTS = [[1, 5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]]


def test_continuations_have_the_likelihood_of_the_logits(served):
    pairs = [([1, 2, 3], [4]), ([5], [6, 7, 8]), (list(range(1, 20)), list(range(3, 12))), ([2, 9], [9, 9])]
    found = dict(score_tokens(served, pairs, batch_size=3))
    for number, (context, continuation) in enumerate(pairs):
        ids = [*context, *continuation][-25:]
        rows = logits(served, ids[:-1])[-len(continuation) :]
        expected = rows[range(len(rows)), continuation] - np.log(np.exp(rows).sum(-1))
        np.testing.assert_allclose(found[number].log_likelihood, expected.sum(), rtol=2e-5)
        assert found[number].greedy == (rows.argmax(-1).tolist() == continuation)


def test_greedy_continuations_are_known_as_such(served):
    best = [int(logits(served, ids)[-1].argmax()) for ids in PROMPTS]
    found = dict(
        score_tokens(served, [(ids, [token]) for ids, token in zip(PROMPTS, best, strict=True)], batch_size=2)
    )
    assert all(score.greedy for score in found.values())


def test_an_answer_is_the_same_however_it_ends(served, texts):
    """A stop string cuts where it stands, whether a token contains it, or several spell it."""
    whole = answers(served, texts, PROMPTS, Sampling(8))
    words = whole[0].text.split()
    for stop in (words[2], " ".join(words[2:4])):
        made = answers(served, texts, PROMPTS, Sampling(8, (stop,)))
        for number, answer in whole.items():
            assert made[number].text == answer.text.split(stop)[0]
        assert made[0].ended
        assert made[0].tokens <= (3 if stop == words[2] else 8)


def test_tokens_that_contain_a_stop_string_are_found(served, texts):
    vocabulary = served.tokenizer.get_vocab()
    found = texts.containing(["ell"])
    assert {served.tokenizer.convert_ids_to_tokens(i) for i in found} == {
        word for word in vocabulary if "ell" in word
    }
    assert texts.containing([""]) == ()


def test_a_long_prompt_loses_its_beginning(served, texts):
    long = [1, *range(3, 30), *range(3, 30)]
    (answer,) = answers(served, texts, [long], Sampling(8)).values()
    assert answer == answers(served, texts, [long[-16:]], Sampling(8))[0]


def test_sampled_answers_follow_their_key(served, texts):
    sampling = Sampling(8, temperature=1.5)
    made = [answers(served, texts, PROMPTS, sampling, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_what_cannot_be_asked_is_one_line(served, texts, tmp_path):
    with pytest.raises(InputError, match="an answer of 24 tokens leaves no room for a prompt"):
        answers(served, texts, PROMPTS, Sampling(24))
    with pytest.raises(InputError, match="request 0: no tokens in the context or in the continuation"):
        list(score_tokens(served, [([1], [])], batch_size=1))
    with pytest.raises(InputError, match="a continuation has 25 tokens; the model reads 24"):
        list(score_tokens(served, [([1], [2] * 25)], batch_size=1))
    with pytest.raises(InputError, match="base is missing; give the folder or hub id"):
        open_served()
    with pytest.raises(InputError, match="max_length is 1"):
        open_served(str(tmp_path), max_length=1)


def test_the_context_is_as_long_as_the_files_say():
    class Endless:
        model_max_length = 10**30

    assert (
        context_length({"max_position_embeddings": 64, "text_config": {"max_position_embeddings": 32}}, None) == 32
    )
    assert context_length({}, Endless()) == 2048
