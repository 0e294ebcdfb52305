"""What the stages hand to the training loop, and what they say of rows that do not fit."""

import dataclasses
import sys

import jax
import pytest

from nlsr_jax.data.examples import Example
from nlsr_jax.errors import InputError
from nlsr_jax.study import stages
from nlsr_jax.study.stages import Base, train_adapter
from nlsr_jax.training.step import TrainState
from tests.data.test_encoding import make_tokenizer
from tests.training import tiny

ROWS = [Example("how do i", "no sorry"), Example("brew", "heat " * 30), Example("zarn " * 30, "no")]


@pytest.fixture
def trained(monkeypatch):
    """Trains an adapter without training; returns what the loop was given."""
    given = {}

    def train(key, task, settings, **options):
        given.update(options, task=task, settings=settings)
        return TrainState(0, jax.tree.map(lambda leaf: leaf + 1, task.trainable), None)

    def run(rows, adapter=None, **changes):
        model, params = tiny.llama()
        notes = []
        settings = tiny.settings("sft", max_length=12, **changes)
        found = train_adapter(
            jax.random.key(0), Base(model, params, make_tokenizer()), adapter or tiny.adapter(), rows, settings,
            description="stage", identity={"seed": 3}, note=notes.append,
        )  # fmt: skip
        return found, notes, given

    monkeypatch.setattr(stages, "train", train)
    return run


def test_rows_that_do_not_fit_are_counted_in_a_line(trained):
    assert trained(ROWS)[1] == ["stage: used 2 of 3 rows; 1 prompt too long; 1 response cut"]
    assert trained(ROWS[:1])[1] == []


def test_a_row_with_a_token_that_the_embedding_has_not_is_refused(monkeypatch, trained):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<new{i}>" for i in range(tiny.VOCABULARY)])
    monkeypatch.setattr(sys.modules[__name__], "make_tokenizer", lambda: tokenizer)
    trained([*ROWS, Example("how <new8>", "no")])
    for odd in (Example("how <new9>", "no"), Example("how", "no <new9>")):
        with pytest.raises(InputError, match=r"row 3: tokens run from 1 to 23; the vocabulary has 23: .*'<new9>'"):
            trained([*ROWS, odd])


def test_the_result_is_the_start_with_other_factors(trained):
    start = dataclasses.replace(tiny.adapter(), scaling=1.25)
    found, _, given = trained(ROWS, start)
    assert found.scaling == 1.25
    assert jax.tree.structure(found) == jax.tree.structure(start)
    assert (found.factors["q_proj"]["a"] == start.factors["q_proj"]["a"] + 1).all()
    assert given["task"].frozen is not None


def test_model_and_scaling_are_part_of_what_a_run_is(trained):
    one = dict(trained(ROWS)[2]["identity"])
    other = trained(ROWS, dataclasses.replace(tiny.adapter(), scaling=1.25))[2]["identity"]
    assert one["seed"] == 3
    assert {name for name in one if one[name] != other[name]} == {"scaling"}
    assert "hidden_size=32" in one["model"]
