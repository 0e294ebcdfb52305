"""Benchmarks from a hundred items each: estimate the score on all items with item response theory.

An item is answered correctly with probability ``sigmoid(sum_d (a_d theta_d - b_d))``; the model's ability theta
is fitted to the items asked.

Source: Maia Polo et al. 2024, "tinyBenchmarks", and its package (each term clipped to 30, BFGS from zero).

Axis legend: N items, n anchors (the items asked), D dimensions of ability.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.item_bank import ItemBank

_CLIP = 30.0
_TINY = 1e-10  # the package's guard against log 0; it also bounds the fit if every answer is right


class Estimate(NamedTuple):
    """Estimates of one scenario's score, in [0, 1].

    Attributes:
      gp_irt: the score to report, ``lambda * irt + (1 - lambda) * p_irt``.
      p_irt: measured on the anchors, predicted on the other items.
      irt: the weighted anchors alone.
    """

    gp_irt: float
    p_irt: float
    irt: float


class Estimates(NamedTuple):
    """Estimates by scenario, and the ability ``[D]`` that they share."""

    scenarios: dict[str, Estimate]
    ability: np.ndarray


def correct_probability(ability: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``[N]``, the probability of a correct answer for ability ``[D]`` and items ``[D, N]``."""
    return scipy.special.expit(np.clip(a * ability[:, None] - b, -_CLIP, _CLIP).sum(axis=0))


def fit_ability(scores: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the ability that maximises the likelihood of the answers.

    Args:
      scores: ``[n]`` in [0, 1], 1 for a correct answer.
      a, b: ``[D, n]`` parameters of the same items.

    Returns:
      ``[D]`` float64.
    """

    def loss(ability):
        terms = a * ability[:, None] - b
        chance = correct_probability(ability, a, b)
        value = -np.sum(scores * np.log(chance + _TINY) + (1 - scores) * np.log(1 - chance + _TINY))
        pull = scores / (chance + _TINY) - (1 - scores) / (1 - chance + _TINY)
        slope = np.where(np.abs(terms) < _CLIP, a, 0.0)
        return value, -slope @ (pull * chance * (1 - chance))

    return scipy.optimize.minimize(loss, np.zeros(len(a)), jac=True, method="BFGS").x


def estimate(bank: ItemBank, scores: Mapping[str, np.ndarray]) -> Estimates:
    """Estimate the scores on whole benchmarks from the scores on their anchors.

    Args:
      bank: from ``load_banks``.
      scores: the anchor scores of each scenario asked, in the bank's order, each in [0, 1] (accuracy, or a
        probability such as mc2). The ability is fitted to all of them together.

    Returns:
      ``Estimates`` of the scenarios asked.

    Raises:
      InputError: if the bank does not know a scenario, or scores are of the wrong number or outside [0, 1].
    """
    if not scores:
        raise InputError(f"no scores; expected scores for {', '.join(bank.scenarios)}")
    given = {name: _checked(bank, name, found) for name, found in scores.items()}
    asked = np.concatenate([anchors_of(bank, name) for name in given])
    answers = np.concatenate(list(given.values()))
    ability = fit_ability(answers, bank.a[:, asked], bank.b[:, asked])
    chance = correct_probability(ability, bank.a, bank.b)
    return Estimates({name: _scenario(bank, name, y, chance) for name, y in given.items()}, ability)


def anchors_of(bank: ItemBank, name: str) -> np.ndarray:
    """Return a scenario's anchors in the order of their scores."""
    return bank.anchors[bank.scenario[bank.anchors] == bank.scenarios.index(name)]


def balance(bank: ItemBank, items: np.ndarray) -> np.ndarray:
    """Return a weight for each of a scenario's items, with mean 1, that gives its parts equal weight."""
    _, part, size = np.unique(bank.subscenario[items], return_inverse=True, return_counts=True)
    return len(items) / (len(size) * size[part])


def _checked(bank, name, scores) -> np.ndarray:
    if name not in bank.scenarios:
        raise InputError(f"no scenario {name!r}; the bank knows {', '.join(bank.scenarios)}")
    scores, count = np.asarray(scores, np.float64), len(anchors_of(bank, name))
    if scores.shape != (count,) or not count:
        raise InputError(f"{name}: scores are {list(scores.shape)}; expected one for each of the {count} anchors")
    if not np.all((scores >= 0) & (scores <= 1)):
        raise InputError(f"{name}: scores range from {scores.min()} to {scores.max()}; expected 0 to 1")
    return scores


def _scenario(bank, name, scores, chance) -> Estimate:
    index = bank.scenarios.index(name)
    items, anchors = np.flatnonzero(bank.scenario == index), anchors_of(bank, name)
    weight = np.zeros(bank.a.shape[1])
    weight[items] = balance(bank, items)
    unseen = np.setdiff1d(items, anchors)
    measured = float(np.mean(weight[anchors] * scores))
    predicted = float(np.mean(weight[unseen] * chance[unseen])) if len(unseen) else 0.0
    share = len(anchors) / len(items)
    p_irt = share * measured + (1 - share) * predicted
    irt = float(np.sum(bank.weights[bank.scenario[bank.anchors] == index] * scores))
    mix = float(bank.lambdas[index])
    return Estimate(mix * irt + (1 - mix) * p_irt, p_irt, irt)
