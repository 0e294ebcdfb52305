"""The search of the automatic choice over measures that are written down: no model is asked."""

import math

import pytest

from nlsr_jax.calibration.climbing import Trial
from nlsr_jax.calibration.search import TELLS, Aim, Search, SearchSettings, choose, doubts

BETAS = (1.0, 4.0, 16.0, 64.0)


def search(measure, *, divergence=lambda beta, share: 0.01, disturbed=0.04, headroom=1.25, **aim):
    given = {"before": 0.2, "safe": 0.6, "aimed": 0.98, **aim}
    return Search(measure, divergence, Aim(**given, headroom=headroom, disturbed=disturbed), BETAS)


def peaked(top, between=0.0, where=8.0):
    """Rises to ``top`` on the steps of a climb, and higher in a narrow place between two of them."""

    def measure(beta, share):
        if abs(math.log(beta / where)) < 0.1:
            return top + between
        return top * min(1.0, beta / 16.0)

    return measure


def test_what_a_bisection_came_upon_takes_no_share_away():
    """Before, the second search took for its target what no climb had reached, and left the adapter unrepaired."""
    found = search(peaked(0.8, between=0.1))
    target, candidates = found.run((1e-3, 3e-3), (1e-4,), ())
    assert any(trial.beta == 8.0 and trial.probability == pytest.approx(0.9) for trial in found.trials)
    assert target == pytest.approx(0.8**1.25)
    assert {candidate.share for candidate in candidates} == {1e-4, 1e-3, 3e-3}
    assert all(candidate.probability >= target for candidate in candidates)


@pytest.mark.parametrize("where", [2.0, 5.0, 8.0, 11.0, 32.0])
@pytest.mark.parametrize("more", [(), (1e-2,), (1e-2, 3e-2)])
def test_a_share_that_was_able_stays_so_in_every_further_search(where, more):
    found = search(peaked(0.7, between=0.2, where=where), safe=0.95)
    assert found.run((1e-3,), (1e-4,), more)[1]


def test_nothing_is_tried_twice():
    asked = []

    def measure(beta, share):
        asked.append((beta, share))
        return peaked(0.8, between=0.1)(beta, share)

    search(measure).run((1e-3,), (1e-4,), (1e-2,))
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_measure_that_is_no_number_is_no_repair(bad):
    def measure(beta, share):
        return bad if beta > 10 else 0.5 + 0.04 * beta

    found = search(measure, safe=0.4)
    target, candidates = found.run((1e-3,), (), ())
    assert found.unmeasured == 1
    assert Trial(16.0, 1e-3, 0.0) in found.trials
    assert target == pytest.approx(0.66**1.25)
    assert [candidate.beta < 10 for candidate in candidates] == [True]


def test_measures_that_are_never_numbers_leave_nothing_to_choose():
    found = search(lambda beta, share: math.nan)
    assert found.run((1e-3, 3e-3), (1e-4,), (1e-2,))[1] == ()
    assert found.unmeasured == len(found.trials) - 1 > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_divergence_that_is_no_number_is_no_candidate(bad):
    found = search(peaked(1.0), divergence=lambda beta, share: bad if share == 1e-3 else 0.5)
    _, candidates = found.run((1e-3, 3e-3), (), ())
    assert [candidate.share for candidate in candidates] == [3e-3]


def test_a_calm_and_able_choice_is_not_doubted():
    assert doubts(0.3, 0.6, 0.04, 0.04) == []
    assert doubts(0.3, 0.3 + TELLS + 1e-9, None, 0.04) == []


@pytest.mark.parametrize("divergence", [0.05, 3.0, math.nan])
def test_a_choice_that_disturbs_is_doubted(divergence):
    (found,) = doubts(0.3, 0.6, divergence, 0.04)
    assert "over the limit of 0.04; it may refuse what is harmless" in found


@pytest.mark.parametrize(("finetuned", "aligned"), [(0.78, 0.85), (0.5, 0.5), (0.9, 0.2), (0.99, 0.98)])
def test_rows_that_do_not_tell_the_adapters_apart_are_doubted(finetuned, aligned):
    (found,) = doubts(finetuned, aligned, None, 0.04)
    assert "do not tell the aligned from the fine-tuned model" in found
    assert f"{aligned:.3g} and {finetuned:.3g}, expected 0.1 more" in found


class Written:
    """Measures that are written down; counts what was asked."""

    def __init__(self, before=0.2, safe=0.6, top=0.99):
        self.found, self.top, self.changed = (before, safe), top, []

    def untouched(self):
        return self.found

    def probability(self, beta, share):
        return self.top * min(1.0, beta * share / 0.01)

    def divergence(self, beta, share):
        return share * 10

    def change(self, beta, share):
        self.changed.append((beta, share))
        return 0.5


def test_a_choice_needs_measures_alone():
    measures = Written(top=1.0)
    found = choose(measures, SearchSettings(shares=(1e-3, 3e-3), fewer=(), more=()))
    assert found.met
    assert found.chosen[:2] == measures.changed[0]
    assert found.change == 0.5
    assert found.chosen.share == 1e-3  # of both the one that disturbs less
    assert 0.98 <= found.chosen.probability < 1.05 * 0.98


def test_a_choice_leaves_alone_what_is_safe_or_cannot_be_repaired():
    safe = choose(Written(before=0.99), SearchSettings())
    assert (safe.met, safe.chosen.share, len(safe.trials)) == (True, 0.0, 1)
    lost = choose(Written(top=0.1), SearchSettings())
    assert (lost.met, lost.chosen.share, lost.candidates) == (False, 0.0, ())
    assert len(lost.trials) > 1


def test_one_share_takes_the_place_of_all():
    settings = SearchSettings(share=2e-3).tried()
    assert (settings.shares, settings.fewer, settings.more) == ((2e-3,), (), ())
    assert SearchSettings().tried() == SearchSettings()
