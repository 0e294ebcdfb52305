"""Training on texts that begin alike, with their beginning computed once, is training on whole texts."""

import jax
import numpy as np
import pytest

from nlsr_jax.data.batching import pack
from nlsr_jax.data.examples import Encoded
from nlsr_jax.models import shared_prefix
from nlsr_jax.training import loop, prefix
from nlsr_jax.training.losses import TEXTS
from nlsr_jax.training.step import adapter_forward
from tests.training import tiny


def make_packed(objective, alike=20):
    draw = np.random.default_rng(0)
    begin = draw.integers(1, tiny.VOCABULARY, alike)

    def text(start):
        ids = np.concatenate([begin, draw.integers(1, tiny.VOCABULARY, int(draw.integers(8, 12)))])
        return Encoded(ids.astype(np.int32), start)

    return pack([tuple(text(alike + 2) for _ in range(TEXTS[objective])) for _ in range(6)])


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_training_is_that_on_whole_texts(objective, monkeypatch):
    model, params = tiny.llama()
    start = tiny.adapter(modules=tiny.FEW)
    task = loop.Task(adapter_forward(model, start), start.factors, params, make_packed(objective))
    settings = tiny.settings(objective, max_length=32, epochs=1)
    assert loop._without_prefix(task._replace(method=loop.objective_method(settings)), settings).prefix.shape == (
        16,
    )
    found = loop.train(jax.random.key(0), task, settings).trainable
    monkeypatch.setattr(shared_prefix, "WORTH", 100)
    expected = loop.train(jax.random.key(0), task, settings).trainable
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_what_is_cut_ends_before_the_last_token_ahead_of_any_response():
    for alike, length in ((20, 16), (25, 24), (15, 0), (32, 32)):
        packed = make_packed("dpo", alike)
        assert prefix.shared_length(packed) == length
        cut = prefix.cut(packed, length)
        assert (cut.starts == packed.starts - length).all()
        place = cut.first[1, 1]
        np.testing.assert_array_equal(
            cut.ids[place : place + cut.lengths[1, 1]], packed.ids[place:][: cut.lengths[1, 1]]
        )
    early = packed._replace(starts=np.full_like(packed.starts, 17))
    assert prefix.shared_length(early) == 16
    assert prefix.shared_length(packed._replace(starts=np.full_like(packed.starts, 16))) == 0
