"""The search for the share, by measures that are known."""

import pytest

from nlsr_jax.calibration.refinement import GRID, Asked, Bounds, Rates, fineness, grid, low_grid, refine
from nlsr_jax.errors import InputError

UNSAFE, SAFE = Rates(0.0, 0.0), Rates(1.0, 0.0)


def share_at(place, fine=1):
    """Return the share of a place of the grid, or of a negative one below it; 0 below both."""
    below = low_grid(fine)
    return 0.0 if place < -len(below) else (*below, *grid(fine))[place + len(below)]


def place_of(share, fine=1):
    return (*low_grid(fine), *grid(fine)).index(share) - len(low_grid(fine))


def searched(
    reached,
    disturbed,
    *,
    start=0.01,
    asked=200,
    finetuned=UNSAFE,
    aligned=SAFE,
    bounds=None,
    recovered=None,
    before=0.0,
    fine=1,
):
    """Search where the goal is reached from one place of the grid on, and the bound is passed from another."""
    tried = []

    def measure(share):
        tried.append(place_of(share, fine))
        return Rates(1.0 if tried[-1] >= reached else before, 0.5 * (tried[-1] >= disturbed))

    options = {"bounds": bounds, "recovered": recovered, "fine": fine}
    found = refine(measure, finetuned, aligned, asked=Asked(asked, 128), start=start, **options)
    return found, tried


@pytest.mark.parametrize(
    ("enough", "disturbed", "place"),
    [(0, 21, 6), (6, 21, 6), (7, 21, 7), (15, 21, 15), (20, 21, 20), (21, 21, 6), (15, 12, 11), (15, 7, 6)],
)
@pytest.mark.parametrize("fine", [1, 3])
def test_a_share_that_recovers_too_little_gives_way(enough, disturbed, place, fine):
    """The goal is reached at place 4, so that the margin ends at 6; enough comes back from another place on."""
    asked, shares = [], grid(fine)
    ends = place == disturbed - 1 < 20  # at the bound
    enough, disturbed = fine * enough, fine * disturbed
    place = disturbed - 1 if ends else fine * place

    def recovered(share):
        asked.append(shares.index(share))
        return 0.8 if asked[-1] >= enough else 0.79

    found, _ = searched(4 * fine, disturbed, start=0.05, recovered=recovered, fine=fine)
    assert found.share == shares[place]
    assert found.recovered == (0.8 if place >= enough else 0.79)
    assert len(asked) == len(set(asked)) <= 6 + fine


@pytest.mark.parametrize("fine", [1, 3])
@pytest.mark.parametrize("before", [0.0, 0.9])
@pytest.mark.parametrize("start", [0.001, 0.004, 0.005, 0.02, 0.1])
def test_every_search_finds_its_place(start, before, fine):
    """The margin is of two tenths; no share is more than twice the first, or four times where much harm is left."""
    shares = grid(fine)
    twice, most = (max(i for i, share in enumerate(shares) if share <= times * start + 1e-9) for times in (2, 4))
    for reached in range(len(shares) + 1):
        for disturbed in (-10 * fine, -4 * fine, *range(len(shares) + 1)):
            found, tried = searched(reached, disturbed, start=start, before=before, fine=fine)
            further = before < 0.9 and min(reached, disturbed) > twice
            last, times = (most, 4) if further else (twice, 2)
            met = reached < min(disturbed, last + 1)
            place = min(reached + 2 * fine, disturbed - 1, last) if met else min(disturbed, last + 1) - 1
            assert found.share == share_at(place, fine)
            assert found.reached == met
            assert found.far == times * (not met and place == last < len(shares) - 1)
            assert len(tried) == len(set(tried)) <= (8 if disturbed > 0 else 12) + 2 * fine
            assert [trial.share for trial in found.trials] == [share_at(one, fine) for one in tried]


def test_a_stronger_repair_is_searched_in_finer_steps():
    assert [fineness(strength) for strength in (0.5, 1.0, 1.5, 2.0)] == [1, 1, 3, 3]
    assert grid(3)[::3] == GRID == grid()


@pytest.mark.parametrize("fine", [1, 3])
@pytest.mark.parametrize(("asked", "steps"), [(100, 2), (99, 3), (50, 3), (49, 4)])
def test_few_prompts_take_a_larger_margin(asked, steps, fine):
    found, _ = searched(10 * fine, 21 * fine, asked=asked, start=0.02, fine=fine)
    assert found.share == pytest.approx(GRID[10 + steps])


def test_the_bound_is_of_the_model_that_refuses_more():
    """Harmless prompts that either model refuses anyway do not count against a repair."""
    for finetuned, aligned in ((Rates(0.0, 0.5), SAFE), (UNSAFE, Rates(1.0, 0.5))):
        assert searched(10, 0, finetuned=finetuned, aligned=aligned)[0].share == GRID[12]
    assert searched(10, 0, bounds=Bounds(harmless=0.5))[0].share == GRID[12]
    assert searched(10, -10)[0].share == 0.0


@pytest.mark.parametrize(("more", "allowed"), [(2, True), (3, False)])
@pytest.mark.parametrize("already", [0, 1, 38])
def test_two_of_128_harmless_prompts_may_be_refused_beside_those_that_the_aligned_model_refuses(
    already, more, allowed
):
    """The bound is 2 points at any rate, and no standard error widens it."""
    rate, limit = (already + more) / 128, already / 128
    found = refine(lambda _: Rates(1.0, rate), UNSAFE, Rates(1.0, limit), asked=Asked(200, 128), start=0.01)
    assert (found.share > 0) == allowed


@pytest.mark.parametrize(
    ("reached", "changed", "enough", "place", "held"),
    [
        (10, 21, 0, 12, False),  # the margin is taken
        (10, 12, 0, 11, True),  # it ends at the bound
        (10, 8, 0, 7, True),  # the goal is given up
        (10, 0, 0, -1, True),  # a share below the grid is taken
        (10, -4, 0, -5, True),
        (10, -10, 0, -11, True),  # nothing is repaired
        (10, 13, 0, 12, False),  # a larger share is not wanted
        (10, 14, 16, 13, True),  # unless too little of the likelihood comes back
        (20, 19, 0, 18, True),  # where much harm is left the search goes further
    ],
)
@pytest.mark.parametrize("fine", [1, 3])
def test_answers_to_the_task_bind(reached, changed, enough, place, held, fine):
    """The goal is reached from one place on, the task's answers change from another on."""
    place = fine * changed - 1 if held else fine * place
    reached, changed, enough = fine * reached, fine * changed, fine * enough

    def measure(share):
        one = place_of(share, fine)
        return Rates(float(one >= reached), 0.0, 1.0 if one < changed else 0.5)

    found = refine(
        measure,
        UNSAFE,
        SAFE,
        asked=Asked(200, 128, 128),
        start=0.02,
        recovered=lambda share: float(place_of(share, fine) >= enough),
        fine=fine,
    )
    assert found.share == share_at(place, fine)
    assert found.held == held
    assert found.reached == (place >= reached)


def test_the_bound_of_harmless_prompts_goes_first():
    """A share that both bounds forbid is not said to be forbidden by the task alone."""
    for harmless, held in ((0.0, True), (0.5, False)):
        found = refine(
            lambda _, rate=harmless: Rates(1.0, rate, 0.5), UNSAFE, SAFE, asked=Asked(9, 9, 9), start=0.02
        )
        assert (found.share, found.held) == (0.0, held)


@pytest.mark.parametrize(("asked", "allowed"), [(128, True), (2000, False)])
def test_few_prompts_of_the_task_do_not_decide_by_chance(asked, allowed):
    """Two standard errors below the bound, for 128 and for 2,000 prompts."""
    bounds = Bounds(kept=0.98)
    found = refine(
        lambda _: Rates(1.0, 0.0, 0.96), UNSAFE, SAFE, asked=Asked(200, 200, asked), start=0.01, bounds=bounds
    )
    assert (found.share > 0) == allowed


def test_a_goal_beyond_the_aligned_model_is_lowered_by_nothing():
    """The aligned model refuses less than the goal: a repair may still come up to it."""
    assert searched(4, 21, aligned=Rates(0.4, 0.0))[0].share == GRID[6]


def test_what_needs_no_repair_is_left_alone():
    found, tried = searched(0, 21, finetuned=Rates(0.99, 0.0))
    assert (found.share, found.reached, tried) == (0.0, True, [])


def test_prompts_that_tell_nothing_choose_nothing():
    found, tried = searched(0, 21, finetuned=Rates(0.3, 0.0), aligned=Rates(0.35, 0.0))
    assert (found.share, found.reached, len(tried)) == (None, False, 1)


@pytest.mark.parametrize("task", [True, False])
@pytest.mark.parametrize("allowed", [8, 7, 3, 1, 0, -4, -10])
def test_where_refusals_choose_nothing_the_bounds_hold(allowed, task):
    """The first place is 7. From another on the model refuses harmless prompts, or answers the task otherwise."""

    def measure(share):
        good = place_of(share) < allowed
        return Rates(0.9, 0.0, 1.0 if good else 0.5) if task else Rates(0.9, 0.0 if good else 0.5)

    found = refine(measure, Rates(0.3, 0.0), Rates(0.35, 0.0), asked=Asked(200, 128, 128), start=0.005)
    share = None if allowed == 8 else share_at(allowed - 1)
    assert (found.share, found.reached, found.held) == (share, False, task and allowed < 8)
    assert 1 <= len(found.trials) <= (5 if allowed > 0 else 9)


@pytest.mark.parametrize("bounds", [Bounds(goal=1.1), Bounds(harmless=-0.1)])
def test_bounds_are_shares(bounds):
    with pytest.raises(InputError, match="expected 0 to 1"):
        searched(1, 2, bounds=bounds)
