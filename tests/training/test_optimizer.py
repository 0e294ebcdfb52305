"""Learning rates step by step, the limit on the gradient, and AdamW against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.training.optimizer import learning_rate, make_optimizer
from nlsr_jax.training.settings import TrainingSettings

HIGHEST = 3e-3


def rates(steps, **changes):
    rate = learning_rate(TrainingSettings(learning_rate=HIGHEST, **changes), steps)
    return np.array([float(rate(step)) for step in range(steps + 1)]) / HIGHEST


def near(expected):
    return pytest.approx(np.asarray(expected), abs=1e-6)


def test_cosine_falls_from_the_highest_to_zero():
    found = rates(40)
    assert found == near(0.5 * (1 + np.cos(np.pi * np.arange(41) / 40)))
    assert (found[0], found[40]) == near([1, 0])


@pytest.mark.parametrize("warmup", [0.25, 10])
def test_warm_up_is_a_share_or_a_number_of_steps(warmup):
    found = rates(40, warmup=warmup)
    assert found[:10] == near(np.arange(1, 11) / 10)
    assert found[10:] == near(0.5 * (1 + np.cos(np.pi * np.arange(31) / 30)))


def test_other_schedules():
    assert rates(10, schedule="constant") == near(np.ones(11))
    assert rates(10, schedule="linear") == near(1 - np.arange(11) / 10)
    assert rates(10, schedule="linear", warmup=0.2) == near([0.5, 1, *(1 - np.arange(9) / 8)])


def test_short_runs_have_rates_too():
    assert rates(1) == near([1, 0])
    assert rates(4, warmup=1)[:2] == near([1, 1])  # one step of warm-up is a step at the highest rate
    assert rates(3, warmup=0.1) == near(rates(3))
    every = rates(4, warmup=9)  # longer than the run: it ends on the way up
    assert every == near(np.arange(1, 6) / 9)
    assert rates(5, warmup=5)[:5] == near(np.arange(1, 6) / 5)


def updates(gradient, steps=3, **changes):
    """What AdamW adds to a weight of 2 in each of several steps with the same gradient."""
    settings = TrainingSettings(learning_rate=HIGHEST, schedule="constant", **changes)
    optimizer, weights, found = make_optimizer(settings, steps), {"w": jnp.full(gradient.shape, 2.0)}, []
    state = optimizer.init(weights)
    for _ in range(steps):
        update, state = optimizer.update({"w": jnp.asarray(gradient)}, state, weights)
        found.append(np.asarray(update["w"]))
    return np.stack(found), state


def test_adamw():
    gradient = np.float32([1e-3, -2.0])
    first, second = np.zeros(2), np.zeros(2)
    found, _ = updates(gradient, clip=0.0, weight_decay=0.1)
    for step, update in enumerate(found, 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moment = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(update, -HIGHEST * (moment + 0.1 * 2), rtol=1e-4)


def test_the_limit_scales_the_whole_gradient():
    gradient = np.float32([3, 4])  # of norm 5
    for limit, expected in ((1.0, gradient / 5), (10.0, gradient), (0.0, gradient)):
        _, state = updates(gradient, 1, clip=limit)
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
        np.testing.assert_allclose(moments[0], 0.1 * expected, rtol=1e-5)
        np.testing.assert_allclose(moments[1], 0.001 * expected**2, rtol=1e-5)
