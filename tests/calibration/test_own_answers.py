"""Calibration rows with the aligned model's own answers."""

import numpy as np

from nlsr_jax.calibration.own_answers import BEGINNING, with_own_answers
from nlsr_jax.data.examples import Encoded


class Echo:
    """Answers a prompt with its tokens backwards; one of a single token with nothing."""

    def answers(self, prompts):
        return [prompt[::-1] if len(prompt) > 1 else [] for prompt in prompts]


def test_prompts_stay_and_answers_begin_as_the_models_do():
    rows = [(Encoded(np.arange(n + 3, dtype=np.int32), n),) for n in (7, 3, 1)]
    (long, start), (short, _), (silent, _) = (row[0] for row in with_own_answers(rows, Echo()))
    assert (long.tolist(), start) == ([*range(7), 6, 5, 4, 3], 7)
    assert len(long) - start == BEGINNING
    assert short.tolist() == [0, 1, 2, 2, 1, 0]
    assert silent.tolist() == rows[2][0].ids.tolist()
    assert long.dtype == np.int32
