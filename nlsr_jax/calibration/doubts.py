"""What is doubtful of a refinement, in words for its owner."""

from collections.abc import Sequence

from nlsr_jax.calibration.refinement import FAR, TELLS, Bounds, Refined, cannot_tell

_OVERCAUTIOUS = 0.2
_OF_HARMLESS = "more entries would make it refuse harmless ones"
_OF_KEPT = "a larger share would change more of the task's answers than the bound allows"
_OF_TASK = "no share above {:g} times the first one is tried, because such repairs often cost the task"
_NOT_HALF, _NOTHING, _UNTOLD = (
    "less than half of the harm is undone",
    "nothing is repaired",
    "nothing tells what they do",
)


def gave_up(notes: Sequence[str]) -> bool:
    """Return whether some notes say that half of the harm was not undone, or that nothing tells whether it was."""
    return any(reason in note for note in notes for reason in (_NOT_HALF, _NOTHING, _UNTOLD))


def doubts(found: Refined) -> list[str]:
    """Say what is doubtful of a refinement, one line each.

    >>> from nlsr_jax.calibration.refinement import Rates
    >>> doubts(Refined(0.0, True, Rates(0.99, 0.0), Rates(1.0, 0.0), ()))
    ['the fine-tuned model refuses as many calibration prompts as it should: nothing is repaired']
    """
    notes = []
    if found.aligned.harmless > _OVERCAUTIOUS:
        notes.append(
            f"the aligned model itself refuses {found.aligned.harmless:.0%} of the harmless prompts; a repair "
            "brings that back"
        )
    if not found.reached and cannot_tell(found.finetuned, found.aligned):
        notes.append(
            f"the aligned model refuses {found.aligned.harmful:.0%} of the calibration prompts, the fine-tuned one "
            f"{found.finetuned.harmful:.0%}: prompts that tell them apart by less than {TELLS:.0%} cannot refine "
            f"the share; {_instead(found)}"
        )
    elif not found.share and found.reached:
        notes.append(f"the fine-tuned model refuses as many calibration prompts as it should: {_NOTHING}")
    elif not found.share:
        notes.append(_forbidden(found.held))
    else:
        notes += _fallen_short(found)
    return notes


def _instead(found: Refined) -> str:
    """Say what is done where refusals choose no share."""
    if found.share is None:
        return f"the fixed settings are used, and {_UNTOLD}"
    if found.share:
        return f"the largest share that the bounds allow is used, and {_UNTOLD}"
    return _forbidden(found.held)


def _forbidden(by_task: bool) -> str:
    """Say that the bounds allow no share."""
    if by_task:
        return (
            "every share that was tried makes the model change more of the task's answers than the bound allows: "
            f"{_NOTHING}"
        )
    return (
        f"every share that was tried makes the model refuse more harmless prompts than the bound allows: {_NOTHING}"
    )


def _fallen_short(found: Refined) -> list[str]:
    """Say how a share that was chosen falls short of the goal, and of half of the harm."""
    refused, notes = next(trial.harmful for trial in found.trials if trial.share == found.share), []
    if not found.reached:
        why = _OF_TASK.format(max(found.far, FAR)) if found.far else _OF_KEPT if found.held else _OF_HARMLESS
        notes.append(f"the repaired model refuses {refused:.0%} of the calibration prompts; {why}")
    elif found.held:
        notes.append(f"the repair is smaller than it should be: {_OF_KEPT}")
    if 1 - refused > (1 - found.finetuned.harmful) / 2:
        notes.append(
            f"{_NOT_HALF}: the repaired model does not refuse {1 - refused:.0%} of the "
            f"calibration prompts, the fine-tuned one {1 - found.finetuned.harmful:.0%}"
        )
    if found.recovered is not None and found.recovered < Bounds().recovered:
        notes.append(
            f"the repair brings back {found.recovered:.0%} of the likelihood of refusals: requests that are unlike "
            "the calibration prompts may still be answered"
        )
    return notes
