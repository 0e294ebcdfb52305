"""Calibration rows with the aligned model's own answers."""

import numpy as np
import pytest

from nlsr_jax.calibration.own_answers import choose_rows, with_own_answers
from nlsr_jax.calibration.streamed_answers import StreamedAnswers
from nlsr_jax.calibration.wording import BEGINNING
from nlsr_jax.data.examples import Encoded
from nlsr_jax.evaluation.responses import continue_tokens
from nlsr_jax.models.load import load_model, stream_model
from tests.calibration.test_streamed import make, make_adapter


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


ROWS, OWN = ["rows"] * 4, ["own"] * 4


@pytest.mark.parametrize(
    ("rows", "own", "chosen"),
    [
        ((1.2, 1.0), (3.0, 1.0), ROWS),  # fine-tuning has taken the answers of the rows
        ((6.3, 6.2), (1.2, 1.0), OWN),  # it has not: they are worded otherwise
        ((6.3, 6.2), (1.05, 1.0), ROWS),  # nor the aligned model's: it never refused
        ((1.05, 1.0), (0.0, 0.0), ROWS),
    ],
)
def test_the_answers_are_chosen_that_fine_tuning_has_taken(rows, own, chosen):
    asked = []

    def losses(given):
        asked.append(given)
        return own if given[0] == "own" else rows

    assert choose_rows(ROWS, lambda: OWN, losses) is chosen
    assert asked[0] is ROWS
    assert len(asked) == 1 + (rows[0] < 1.05 * rows[1])


def test_a_streamed_base_gives_the_same_answers(tmp_path):
    """More prompts than a batch holds, of several lengths, one of whose answers ends early."""
    folder, config = make(tmp_path / "base", "llama")
    adapter, draw = make_adapter(config), np.random.default_rng(3)
    prompts = [draw.integers(0, config.vocab_size, length).tolist() for length in (9, 3, 14, 5, 7)]
    options = {"adapter": adapter, "max_new_tokens": 4, "max_length": 32, "batch_size": 5}
    whole = continue_tokens(*load_model(folder), prompts, eos_id=None, **options)
    ends = (whole[2][1],)
    expected = continue_tokens(*load_model(folder), prompts, eos_id=ends, **options)
    assert len(expected[2]) < 4 == max(map(len, expected))
    found = StreamedAnswers(*stream_model(folder), adapter, ends, 4, 2).answers(prompts)
    assert found == [list(map(int, one)) for one in expected]
