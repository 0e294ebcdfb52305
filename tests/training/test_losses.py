"""Losses of whole batches: TRL's golden numbers, parts that add up, fillers that count for nothing."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.training.losses import REFERENCE, TEXTS, Rows, counts, sums
from nlsr_jax.training.settings import OBJECTIVES, TrainingSettings
from tests.training import tiny
from tests.training.scripts import trl_losses
from tests.training.scripts.trl_losses import CASES

VARIANTS = [("sft", "token"), ("sft", "sequence"), *((name, "token") for name in OBJECTIVES[1:])]
BOUND = 1e-5  # the acceptance bound on losses


def case_settings(case):
    return TrainingSettings(**{name: value for name, value in case.items() if name not in ("drift", "desirable")})


def case_rows(inputs):
    position = np.arange(inputs.tokens.shape[-1])
    response = (position < inputs.lengths[..., None]) & (position >= inputs.starts[..., None])
    return Rows(
        tokens=inputs.tokens.astype(np.int32),
        response=response,
        lengths=inputs.lengths.astype(np.int32),
        reference=inputs.reference.astype(np.float32),
        desirable=inputs.desirable,
    )


def from_logits(logits, rows):
    """Log-probabilities of every token after the first."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits[..., :-1, :]), rows.tokens[..., 1:, None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnames="settings")
def whole_loss(values, rows, settings):
    """``(loss, logged)`` of a batch taken at once."""
    terms, logged = sums(values, rows, settings)
    return sum(term / count for term, count in zip(terms, counts(rows, settings), strict=True)), logged


def random_values(rows, seed=0):
    shape = (*rows.tokens.shape[:2], rows.tokens.shape[2] - 1)
    return -np.random.default_rng(seed).exponential(2.0, shape).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_trls(name):
    golden = json.loads(trl_losses.GOLDEN.read_text())[name]
    inputs = trl_losses.make_inputs(CASES[name])
    assert trl_losses.digest(inputs) == golden["inputs"], "NumPy draws other inputs: make the golden numbers again"
    rows = case_rows(inputs)
    loss, logged = whole_loss(from_logits(np.float32(inputs.logits), rows), rows, case_settings(CASES[name]))
    assert abs(float(loss) - golden["loss"]) < BOUND
    if "drift" in CASES[name]:  # both sides of z = max(0, …) are there
        assert (float(logged["kl"]) > 9) == (CASES[name]["drift"] > 0)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_trls(name):
    torch = pytest.importorskip("torch")
    inputs = trl_losses.make_inputs(CASES[name])
    logits = torch.tensor(inputs.logits, requires_grad=True)
    trl_losses.trl_loss(CASES[name], inputs, logits).backward()
    rows = case_rows(inputs)
    settings = case_settings(CASES[name])
    found = jax.grad(lambda x: whole_loss(from_logits(x, rows), rows, settings)[0])(jnp.float32(inputs.logits))
    # A single entry is a share of a loss near 1; float32 sums of twelve terms stand behind it.
    np.testing.assert_allclose(found, logits.grad.numpy(), atol=1e-6)
    assert np.abs(found).max() > 1e-3


def test_golden_numbers_are_what_the_script_makes():
    pytest.importorskip("torch")
    golden = json.loads(trl_losses.GOLDEN.read_text())
    again = trl_losses.make_golden()
    assert set(golden) == set(again)
    for name, found in again.items():
        assert found["inputs"] == golden[name]["inputs"]
        assert found["loss"] == pytest.approx(golden[name]["loss"], abs=1e-12)


@pytest.mark.parametrize(("objective", "mean"), VARIANTS)
def test_fillers_and_padding_count_for_nothing(objective, mean):
    settings = TrainingSettings(objective=objective, loss=mean)
    rows = tiny.make_rows(objective, 6)
    values = random_values(rows)
    expected = whole_loss(values, rows, settings)
    filled = tiny.fill_up(rows, 2)._replace(desirable=np.append(rows.desirable, [True, False]))
    longer = jax.tree.map(lambda leaf: np.pad(leaf, ((0, 0), (0, 0), (0, 5))), (filled.tokens, filled.response))
    filled = filled._replace(tokens=longer[0], response=longer[1])
    noise = random_values(filled, seed=9)  # the model does say something about fillers and padding
    noise[:6, :, : values.shape[-1]] = values
    found = whole_loss(noise, filled, settings)
    for one, two in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)  # the same terms, summed in another order
    gradient = jax.grad(lambda x: whole_loss(x, filled, settings)[0])(jnp.asarray(noise))
    inside = np.arange(1, filled.tokens.shape[-1]) < filled.lengths[..., None]
    assert np.abs(gradient).max() > 0
    assert not np.abs(gradient)[~inside].any()


@pytest.mark.parametrize(("objective", "mean"), [v for v in VARIANTS if v[0] != "kto"])
def test_parts_add_up_to_the_batch(objective, mean):
    settings = TrainingSettings(objective=objective, loss=mean)
    rows = tiny.fill_up(tiny.make_rows(objective, 6), 2)
    values = random_values(rows)
    whole, logged = sums(values, rows, settings)
    for parts in (2, 4):
        pieces = [jax.tree.map(lambda leaf: leaf[i::parts], (values, rows)) for i in range(parts)]  # noqa: B023
        found = [sums(*piece, settings) for piece in pieces]
        for i, term in enumerate(whole):
            np.testing.assert_allclose(sum(terms[i] for terms, _ in found), term, rtol=1e-6)
        for name, value in logged.items():
            np.testing.assert_allclose(sum(part[name] for _, part in found), value, rtol=1e-5)


def test_counts():
    for objective, mean in VARIANTS:
        rows = tiny.fill_up(tiny.make_rows(objective, 6), 2)
        found = [float(x) for x in counts(rows, TrainingSettings(objective=objective, loss=mean))]
        if (objective, mean) == ("sft", "token"):
            assert found == [(rows.lengths[:, 0] - np.argmax(rows.response[:, 0], axis=-1))[:6].sum()]
        elif objective == "orpo":  # the first token of a text is not predicted
            assert found == [(rows.lengths[:6, 0] - 1).sum(), 6]
        else:
            assert found == [6]


def test_the_first_token_is_never_predicted():
    rows = tiny.make_rows("sft", 3)
    first = rows._replace(response=np.arange(rows.tokens.shape[-1]) < rows.lengths[..., None])
    (count,) = counts(first, TrainingSettings())
    assert float(count) == (rows.lengths - 1).sum()


def test_what_is_logged():
    rows = tiny.make_rows("dpo", 8)
    values = random_values(rows)
    mask = rows.response[:, :, 1:]
    policy = np.where(mask, np.float64(values), 0).sum(-1)
    margin = (policy - rows.reference) @ [1, -1]
    _, logged = sums(values, rows, TrainingSettings(objective="dpo", beta=0.3))
    assert 0 < float(logged["accuracy"]) == (margin > 0).sum() < 8
    np.testing.assert_allclose(logged["margin"], 0.3 * margin.sum(), rtol=1e-5)
    mean = policy / mask.sum(-1)
    for objective in ("orpo", "simpo"):
        _, logged = sums(values, rows, TrainingSettings(objective=objective))
        assert 0 < float(logged["accuracy"]) == (mean[:, 0] > mean[:, 1]).sum() < 8
        np.testing.assert_allclose(logged["margin"], (mean @ [1, -1]).sum(), rtol=1e-5)


def test_every_objective_says_what_it_takes():
    assert set(TEXTS) == set(OBJECTIVES)
    assert set(OBJECTIVES) > REFERENCE
