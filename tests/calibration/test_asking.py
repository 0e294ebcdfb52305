"""Refinement by what models answer: models whose answers and likelihoods are known."""

import numpy as np

from nlsr_jax.calibration.asking import make_questions, refine_by_answers

HARMFUL = [[1, number] for number in range(10, 70)]
HARMLESS = [[2, number] for number in range(10, 40)]
REFUSAL, HELP = [7, 8, 9, 7], [3, 4, 5, 6]


class Known:
    """Refuses a harmful prompt where its number is below ``refused``, and finds refusals ``likely``."""

    def __init__(self, refused, likely):
        self.refused, self.likely = refused, likely

    def answers(self, prompts):
        return [REFUSAL if kind == 1 and number < self.refused else HELP for kind, number in prompts]

    def likelihood(self, rows):
        assert all(prompt[0] == 1 and answer == REFUSAL for prompt, answer in rows)
        assert len(rows) == len(HARMFUL)
        return self.likely


def refined(likelihood):
    said = []
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Known(10, -9.0),
        Known(70, -1.0),
        lambda share: Known(70 if share > 0.005 else 20, likelihood(share)),
        start=0.02,
        say=said.append,
    )
    return found, said


def test_refusals_of_the_aligned_model_come_back_to_four_fifths():
    """From 0.5 % on every prompt is refused, but at 3 % alone -2.5 of -9 to -1 nats come back."""
    few, _ = refined(lambda share: -2.0)
    more, said = refined(lambda share: -2.5 if share > 0.03 else -4.0)
    assert few.share < 0.02
    np.testing.assert_allclose(few.recovered, 7 / 8)
    assert 0.03 < more.share < 0.04
    np.testing.assert_allclose(more.recovered, 6.5 / 8)
    assert any("bring back 81% of the likelihood of refusals" in line for line in said)


def test_a_likelihood_that_tells_nothing_decides_nothing():
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Known(10, -1.0),
        Known(70, -1.0),
        lambda share: Known(70, -5.0),
        start=0.02,
    )
    assert (found.reached, found.recovered) == (True, 1.0)
