"""What rows begin with alike is computed once: sums and derivatives are those of whole rows up to rounding."""

import jax
import numpy as np
import pytest

from nlsr_jax.calibration.capture import collect_statistics
from nlsr_jax.calibration.loss import collect_loss_gradient
from nlsr_jax.calibration.weight_gradient import collect_weight_gradient, stream_weight_gradient
from nlsr_jax.models import shared_prefix
from nlsr_jax.models.load import load_model, stream_model
from nlsr_jax.models.shared_prefix import cut_prefix
from tests.calibration.test_streamed import SHAPE, assert_same_bits, make, make_adapter

ALIKE = 29


def batches(count=2, alike=ALIKE):
    """Rows of which the first tokens are equal; the last one has no response."""
    draw = np.random.default_rng(3)
    found = []
    begin = draw.integers(0, SHAPE["vocab_size"], alike)
    for number in range(count):
        tokens = draw.integers(0, SHAPE["vocab_size"], (4, 48))
        tokens[:3, :alike] = begin
        mask = np.zeros(tokens.shape, bool)
        for row in range(3):
            mask[row, 34 + row : 44 - number] = True
        found.append((tokens.astype(np.int32), mask))
    return found


@pytest.mark.parametrize("family", ["llama", pytest.param("mixtral", marks=pytest.mark.long)])
def test_sums_and_derivatives_are_those_of_whole_rows(family, tmp_path, monkeypatch):
    folder, config = make(tmp_path / "base", family)
    model, params = load_model(folder)
    adapter, rows = make_adapter(config), batches()
    assert cut_prefix(model, *rows[0]).prefix.tolist() == rows[0][0][0, :24].tolist()

    def measured():
        return (
            collect_loss_gradient(model, params, adapter, rows),
            {
                name: np.asarray(leaf)
                for name, leaf in collect_statistics(model, params, adapter, rows).gram.items()
            },
            collect_weight_gradient(model, params, rows),
        )

    found = measured()
    monkeypatch.setattr(shared_prefix, "WORTH", 100)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(measured()), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(other).max())


def test_a_streamed_base_has_the_bits_of_one_in_memory(tmp_path):
    folder, config = make(tmp_path / "base", "llama")
    adapter, rows = make_adapter(config), batches()
    for collect in (collect_loss_gradient, collect_statistics):
        assert_same_bits(collect(*stream_model(folder), adapter, rows), collect(*load_model(folder), adapter, rows))
    expected = collect_weight_gradient(*load_model(folder), rows)
    for module, layer, gradient in stream_weight_gradient(*stream_model(folder), rows):
        np.testing.assert_array_equal(gradient, expected[module][layer])


def test_what_is_cut_ends_before_the_last_token_ahead_of_a_response(tmp_path):
    model, _ = load_model(make(tmp_path / "base", "llama")[0])
    windowed, _ = load_model(make(tmp_path / "windowed", "gemma2")[0])
    ((tokens, mask),) = batches(1)
    for first, length in ((34, 24), (25, 24), (24, 16), (17, 16), (16, 0), (1, 0)):
        marked = mask.copy()
        marked[1, first:] = True
        rows = cut_prefix(model, tokens, marked)
        assert (0 if rows.prefix is None else len(rows.prefix)) == length
        np.testing.assert_array_equal(rows.tokens[:3], tokens[:3, length:])
        np.testing.assert_array_equal(rows.response, marked[:, length:])
    assert cut_prefix(model, tokens, np.zeros_like(mask)).prefix is None
    assert cut_prefix(windowed, tokens, mask).prefix is None
