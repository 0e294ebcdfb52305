"""Estimates from a hundred items: abilities found again, and the estimates against loops."""

import numpy as np
import pytest
import scipy.optimize

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.tiny_benchmarks import balance, correct_probability, estimate, fit_ability
from tests.evaluation.banks import answers, make_bank


def loop_probability(ability, a, b):
    """The item curve, one item and one dimension at a time."""
    out = []
    for i in range(a.shape[1]):
        z = sum(min(max(a[d, i] * ability[d] - b[d, i], -30), 30) for d in range(a.shape[0]))
        out.append(1 / (1 + np.exp(-z)))
    return np.asarray(out)


def test_probability_equals_a_loop():
    bank = make_bank()
    for ability in ([0.3, -1.0], [40.0, -2.0], [-70.0, 50.0]):  # the last two reach the clip
        ours = correct_probability(np.asarray(ability), bank.a, bank.b)
        np.testing.assert_allclose(ours, loop_probability(ability, bank.a, bank.b), rtol=1e-12)


@pytest.mark.parametrize("ability", [[0.0], [1.2], [-1.5]])
def test_expected_answers_give_the_ability_back(ability):
    bank = make_bank(dimensions=1)
    chance = loop_probability(ability, bank.a, bank.b)
    # With expected instead of drawn answers, the true ability is the exact maximum.
    np.testing.assert_allclose(fit_ability(chance, bank.a, bank.b), ability, atol=1e-4)


def test_drawn_answers_give_the_ability_back():
    bank = make_bank(sizes=(4000,), parts=(1,), asked=4000)
    ability = np.asarray([0.8, -0.4])
    found = fit_ability(answers(bank, ability), bank.a, bank.b)
    # Four standard errors of the fit, from the curvature of the likelihood.
    chance = correct_probability(ability, bank.a, bank.b)
    error = np.sqrt(np.diag(np.linalg.inv((bank.a * chance * (1 - chance)) @ bank.a.T)))
    assert (np.abs(found - ability) < 4 * error).all()
    assert error.max() < 0.2


def test_fit_is_the_maximum_of_the_likelihood():
    bank = make_bank(dimensions=1)
    y = answers(bank, [0.4])[bank.anchors]
    a, b = bank.a[:, bank.anchors], bank.b[:, bank.anchors]

    def likelihood(ability):
        chance = loop_probability([ability], a, b)
        return np.sum(y * np.log(chance) + (1 - y) * np.log(1 - chance))

    grid = np.linspace(-3, 3, 601)
    best = grid[np.argmax([likelihood(x) for x in grid])]
    assert abs(fit_ability(y, a, b)[0] - best) <= 0.01  # the grid's step


def package_estimate(bank, name, y_asked):
    """The package's procedure read anew: numerical gradients, items one by one, all answers of one scenario."""
    index = bank.scenarios.index(name)
    items = [i for i in range(len(bank.scenario)) if bank.scenario[i] == index]
    seen = [i for i in bank.anchors if i in items]
    unseen = [i for i in items if i not in seen]
    y = dict(zip(seen, y_asked, strict=True))

    def loss(x):
        chance = loop_probability(x, bank.a[:, seen], bank.b[:, seen])
        terms = [
            y[i] * np.log(p + 1e-10) + (1 - y[i]) * np.log(1 - p + 1e-10) for i, p in zip(seen, chance, strict=True)
        ]
        return -sum(terms)

    theta = scipy.optimize.minimize(loss, np.zeros(bank.a.shape[0]), method="BFGS").x
    parts = sorted({bank.subscenario[i] for i in items})
    size = {part: sum(bank.subscenario[i] == part for i in items) for part in parts}
    weight = {i: len(items) / (len(parts) * size[bank.subscenario[i]]) for i in items}
    chance = loop_probability(theta, bank.a, bank.b)
    share = len(seen) / len(items)
    measured = sum(weight[i] * y[i] for i in seen) / len(seen)
    predicted = sum(weight[i] * chance[i] for i in unseen) / len(unseen)
    p_irt = share * measured + (1 - share) * predicted
    irt = sum(w * y[i] for w, i in zip(bank.weights[[i in items for i in bank.anchors]], seen, strict=True))
    return bank.lambdas[index] * irt + (1 - bank.lambdas[index]) * p_irt, p_irt, irt


@pytest.mark.parametrize("name", ["scenario 0", "scenario 1"])
@pytest.mark.parametrize("soft", [False, True])
def test_estimates_equal_the_packages_procedure(name, soft):
    bank = make_bank(seed=3)
    y = answers(bank, [0.5, 0.2], seed=4)
    if soft:
        y = 0.25 + y / 2
    asked = [i for i in bank.anchors if bank.scenarios[bank.scenario[i]] == name]
    ours = estimate(bank, {name: y[asked]}).scenarios[name]
    # Its gradients are numerical, so its fit ends about 1e-5 away from ours.
    np.testing.assert_allclose(ours, package_estimate(bank, name, y[asked]), atol=1e-4)


def test_all_items_seen_is_exact():
    bank = make_bank(sizes=(80, 60), parts=(1, 4), asked=100)
    y = answers(bank, [0.1, 0.4])
    for i, name in enumerate(bank.scenarios):
        asked = bank.anchors[bank.scenario[bank.anchors] == i]
        found = estimate(bank, {name: y[asked]}).scenarios[name]
        members = np.flatnonzero(bank.scenario == i)
        parts = np.unique(bank.subscenario[members])
        truth = np.mean([y[members][bank.subscenario[members] == part].mean() for part in parts])
        assert found.p_irt == pytest.approx(truth)
        assert found.gp_irt == pytest.approx(bank.lambdas[i] * found.irt + (1 - bank.lambdas[i]) * truth)


def test_scenarios_share_one_ability():
    bank = make_bank()
    y = answers(bank, [0.5, 0.5])
    scores = {n: y[bank.anchors[bank.scenario[bank.anchors] == i]] for i, n in enumerate(bank.scenarios)}
    together = estimate(bank, scores)
    expected = fit_ability(y[bank.anchors], bank.a[:, bank.anchors], bank.b[:, bank.anchors])
    np.testing.assert_allclose(together.ability, expected, atol=1e-5)
    assert list(together.scenarios) == list(bank.scenarios)
    alone = estimate(bank, {"scenario 1": scores["scenario 1"]})
    assert np.abs(alone.ability - together.ability).max() > 1e-3


def test_estimates_come_close_to_the_whole_benchmark():
    """A hundred of 2,000 items: the published error is one to two points, drawn answers add their own noise."""
    errors = []
    for seed in range(5):
        bank = make_bank(seed=seed, sizes=(2000,), parts=(1,))
        bank = bank._replace(lambdas=np.zeros(1))
        y = answers(bank, [0.6, -0.2], seed=seed)
        found = estimate(bank, {"scenario 0": y[bank.anchors]}).scenarios["scenario 0"]
        errors.append(abs(found.p_irt - y.mean()))
    # The standard error of 100 plain answers is 5 points.
    assert np.mean(errors) < 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_or_everything_right_stays_finite(value):
    bank = make_bank()
    found = estimate(bank, {"scenario 0": np.full(100, value)}).scenarios["scenario 0"]
    assert abs(found.p_irt - value) < 0.05
    assert found.irt == pytest.approx(value)


def test_balance_makes_parts_count_alike():
    bank = make_bank()
    items = np.flatnonzero(bank.scenario == 1)
    weight = balance(bank, items)
    totals = [weight[bank.subscenario[items] == part].sum() for part in np.unique(bank.subscenario[items])]
    assert len(totals) == 3
    np.testing.assert_allclose(totals, totals[0])
    assert weight.mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({}, "no scores"),
        ({"other": np.zeros(100)}, "no scenario 'other'"),
        ({"scenario 0": np.zeros(99)}, "one for each of the 100"),
        ({"scenario 0": np.full(100, 50.0)}, "expected 0 to 1"),
        ({"scenario 0": np.full(100, np.nan)}, "expected 0 to 1"),
    ],
)
def test_refused(scores, words):
    with pytest.raises(InputError, match=words):
        estimate(make_bank(), scores)
