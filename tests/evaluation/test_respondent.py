"""A respondent answers as ``generate`` does, and finds answers as likely as the logits say."""

import types

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.evaluation.respondent import ModelRespondent
from tests.parity.peers import save_peer

PROMPTS = [[5, 6, 7], [8, 9], [3, 4, 5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def respondent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama2")
    save_peer("llama2", folder)
    model, params = nlsr_jax.load_model(folder)
    return ModelRespondent(model, params, types.SimpleNamespace(eos_token_id=None), None, 4, 40, 2)


def test_answers_are_greedy(respondent):
    for prompt, answer in zip(PROMPTS, respondent.answers(PROMPTS), strict=True):
        scores = nlsr_jax.logits(respondent.model, respondent.params, np.array([[*prompt, *answer]]))
        chosen = np.argmax(scores[0, len(prompt) - 1 : -1], axis=-1)
        assert answer == chosen.tolist()[: len(answer)]


@pytest.mark.parametrize("alike", [0, 20])
def test_the_likelihood_is_the_mean_over_whole_answers(alike, respondent):
    """Batches are padded and filled, and what prompts begin with is computed once; neither counts."""
    prompts = [[*range(3, 3 + alike), *prompt] for prompt in PROMPTS]
    answers, expected = [[1], [2, 3, 4], [9, 9]], []
    for prompt, answer in zip(prompts, answers, strict=True):
        scores = nlsr_jax.logits(respondent.model, respondent.params, np.array([[*prompt, *answer]]))
        known = jax.nn.log_softmax(scores[0], axis=-1)
        expected.append(sum(known[len(prompt) - 1 + place, token] for place, token in enumerate(answer)))
    found = respondent.likelihood(list(zip(prompts, answers, strict=True)))
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)
