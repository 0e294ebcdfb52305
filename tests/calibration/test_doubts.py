"""What is said of a refinement that is doubtful."""

import pytest

from nlsr_jax.calibration.doubts import doubts, gave_up
from nlsr_jax.calibration.refinement import Rates, Refined, Trial

SAFE, UNSAFE = Rates(1.0, 0.0), Rates(0.2, 0.0)


def refined(harmful, *, reached=False, share=0.01, finetuned=UNSAFE, aligned=SAFE):
    trials = (Trial(0.005, 0.3, 0.0), Trial(0.01, harmful, 0.0))
    return Refined(share, reached, finetuned, aligned, trials)


def test_what_holds_is_not_doubted():
    assert doubts(refined(1.0, reached=True)) == []


@pytest.mark.parametrize(("harmful", "given_up"), [(0.61, False), (0.59, True), (0.2, True)])
def test_half_of_the_harm_counts(harmful, given_up):
    """The fine-tuned model does not refuse 80 % of the prompts: half is undone from 60 % refused on."""
    notes = doubts(refined(harmful))
    assert "more entries would make it refuse harmless ones" in notes[0]
    assert gave_up(notes) == given_up == (len(notes) == 2)


def test_a_repair_that_cannot_be_made_gives_up():
    for found, words in (
        (refined(0.0, share=0.0), "than the bound allows: nothing is repaired"),
        (
            refined(0.0, share=0.0)._replace(held=True),
            "change more of the task's answers than the bound allows: noth",
        ),
        (refined(0.0, share=None, finetuned=Rates(0.95, 0.0)), "fixed settings are used, and nothing tells what"),
        (refined(0.95, finetuned=Rates(0.95, 0.0)), "that the bounds allow is used, and nothing tells what"),
        (refined(0.95, share=0.0, finetuned=Rates(0.95, 0.0)), "refine the share; every share that was tried"),
        (Refined(0.0, True, SAFE, SAFE, ()), "as many calibration prompts as it should"),
    ):
        (note,) = doubts(found)
        assert words in note
        assert gave_up([note])


@pytest.mark.parametrize("reached", [True, False])
def test_the_bound_of_the_task_is_named(reached):
    harmful = 1.0 if reached else 0.7
    (note,) = doubts(refined(harmful, reached=reached)._replace(held=True))
    assert note.endswith("a larger share would change more of the task's answers than the bound allows")
    assert not gave_up([note])


@pytest.mark.parametrize(("far", "times"), [(2.0, 2), (4.0, 4), (True, 2)])
def test_the_largest_share_is_named(far, times):
    """Older records say only that it is the largest."""
    (note,) = doubts(refined(0.7)._replace(far=far))
    assert f"; no share above {times} times the first one is tried" in note


def test_an_overcautious_aligned_model_is_named():
    (note,) = doubts(refined(1.0, reached=True, aligned=Rates(1.0, 0.25)))
    assert "itself refuses 25% of the harmless prompts" in note
    assert not gave_up([note])


def test_refusals_that_only_just_win_are_named():
    assert doubts(refined(1.0, reached=True)._replace(recovered=0.8)) == []
    (note,) = doubts(refined(1.0, reached=True)._replace(recovered=0.6))
    assert "brings back 60% of the likelihood of refusals" in note
