"""Refinement by what models answer: models whose answers and likelihoods are known."""

import numpy as np
import pytest

from nlsr_jax.calibration.asking import CannotRefine, OwnAnswers, make_questions, refine_by_answers

HARMFUL = [[1, number] for number in range(10, 70)]
HARMLESS = [[2, number] for number in range(10, 40)]
REFUSAL, HELP = [7, 8, 9, 7], [3, 4, 5, 6]


class Known:
    """Refuses a harmful prompt where its number is below ``refused``, and finds refusals ``likely``."""

    def __init__(self, refused, likely):
        self.refused, self.likely = refused, likely

    def answers(self, prompts):
        return [REFUSAL if kind == 1 and number < self.refused else HELP for kind, number in prompts]

    def likelihood(self, rows):
        assert all(prompt[0] == 1 and answer == REFUSAL for prompt, answer in rows)
        assert len(rows) == len(HARMFUL)
        return self.likely


def refined(likelihood):
    said = []
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Known(10, -9.0),
        Known(70, -1.0),
        lambda share: Known(70 if share > 0.005 else 20, likelihood(share)),
        start=0.02,
        say=said.append,
    )
    return found, said


def test_refusals_of_the_aligned_model_come_back_to_four_fifths():
    """From 0.5 % on every prompt is refused, but at 3 % alone -2.5 of -9 to -1 nats come back."""
    few, _ = refined(lambda share: -2.0)
    more, said = refined(lambda share: -2.5 if share > 0.03 else -4.0)
    assert few.share < 0.02
    np.testing.assert_allclose(few.recovered, 7 / 8)
    assert 0.03 < more.share < 0.04
    np.testing.assert_allclose(more.recovered, 6.5 / 8)
    assert any("bring back 81% of the likelihood of refusals" in line for line in said)


def test_a_likelihood_that_tells_nothing_decides_nothing():
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Known(10, -1.0),
        Known(70, -1.0),
        lambda share: Known(70, -5.0),
        start=0.02,
    )
    assert (found.reached, found.recovered) == (True, 1.0)


class Cautious(Known):
    """Refuses some harmless prompts, too: those with a number below ``needless``."""

    def __init__(self, refused, needless):
        super().__init__(refused, -1.0)
        self.needless = needless

    def answers(self, prompts):
        return [REFUSAL if number < (self.refused, self.needless)[kind - 1] else HELP for kind, number in prompts]


@pytest.mark.parametrize(("needless", "share"), [(0, 0.0063096), (6, 0.0073564)])
def test_steps_are_finer_where_the_aligned_model_refuses_harmless_prompts(needless, share):
    """From 0.75 % on the repair refuses one more than the bound allows; 0.63, 0.74 and 0.79 % are on the grids."""
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Cautious(10, 0),
        Cautious(70, 10 + needless),
        lambda share: Cautious(30, 10 + needless + (share > 0.0075)),
        start=0.02,
    )
    assert found.share == share


class Tasked(Known):
    """Answers prompts of the task, too: the last numbers change with a share."""

    def __init__(self, refused, changed):
        super().__init__(refused, -1.0)
        self.changed = changed

    def likelihoods(self, rows):
        return [-1e9 if answer[0] == REFUSAL[0] else 0.0 for _, answer in rows]

    def answers_up_to(self, length, prompts):
        return [[5, number] if number < 100 - self.changed else REFUSAL for kind, number in prompts if kind == 3]


def test_answers_to_the_task_stay():
    """From 1 % on every calibration prompt is refused, and so is every task prompt from 2 % on."""
    task = [[3, number] for number in range(80, 100)]
    aligned, said = Tasked(70, 20), []
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS, task),
        Tasked(10, 0),
        aligned,
        lambda share: Tasked(70 if share > 0.01 else 20, 20 if share > 0.019 else 0),
        start=0.02,
        say=said.append,
    )
    assert 0.01 < found.share < 0.019
    assert {(trial.share > 0.019, trial.kept) for trial in found.trials} == {(True, 0.0), (False, 1.0)}
    assert (found.finetuned.kept, found.aligned.kept, found.held) == (None, None, True)
    assert any("keeps 100 % of the task's answers" in line for line in said)


def test_few_prompts_of_the_task_are_refused():
    with pytest.raises(CannotRefine, match="7 task prompts can be asked, and the refinement of the share needs 8"):
        make_questions(HARMFUL, HARMLESS, [[3, 1]] * 7)


class Sure:
    """Gives answers to prompts, and finds answers as likely as it is told."""

    def __init__(self, given, likely=()):
        self.given, self.likely = given, dict(likely)

    def answers_up_to(self, length, prompts):
        return [self.given[prompt[0]] for prompt in prompts]

    def likelihoods(self, rows):
        return [float(np.log(self.likely[prompt[0], tuple(answer)])) for prompt, answer in rows]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, 1.0),
        ({0: [9]}, (0.1 + 0.5) / 1.4),  # it was sure of another answer
        ({1: [9]}, (0.9 + 0.45) / 1.4),  # it was not
        ({1: [5, 7]}, (0.9 + 0.05) / 1.4),
        ({1: [5, 6, 7]}, 1.0),  # more is said
        ({1: [5]}, 1.0),  # less is said, which by itself is more likely
        ({1: []}, 0.9 / 1.4),  # nothing is said
        ({0: [9], 1: [9]}, (0.1 + 0.45) / 1.4),
    ],
)
def test_the_fine_tuned_model_judges_what_a_repair_says(changes, kept):
    answers = {0: [5], 1: [5, 6]}
    likely = {
        (0, (5,)): 0.9,
        (1, (5, 6)): 0.5,
        (0, (9,)): 0.1,
        (1, (9,)): 0.45,
        (1, (5, 7)): 0.05,
        (1, (5,)): 0.8,
    }
    own = OwnAnswers([[0], [1]], Sure(answers, likely))
    np.testing.assert_allclose(own.kept_by(Sure(answers | changes)), kept)


class Silent(Known):
    """Answers some harmless prompts with nothing."""

    def __init__(self, refused, likely, silent):
        super().__init__(refused, likely)
        self.silent = silent

    def answers(self, prompts):
        found = super().answers(prompts)
        return [
            [] if prompt[0] == 2 and prompt[1] < self.silent else one
            for prompt, one in zip(prompts, found, strict=True)
        ]


def test_a_repair_that_answers_harmless_prompts_with_nothing_is_not_taken():
    """From 1 % on a third of the harmless prompts get an empty answer; more entries refuse more of the others."""
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Known(10, -9.0),
        Known(70, -1.0),
        lambda share: Silent(min(70, int(20 + 2000 * share)), -2.0, 20 if share > 0.01 else 0),
        start=0.02,
    )
    assert found.share <= 0.01
    assert max(trial.harmless for trial in found.trials) == 1 / 3


class Reserved(Known):
    """Refuses some harmless prompts in a form that it keeps for them."""

    def __init__(self, refused, kept_for):
        super().__init__(refused, -1.0)
        self.kept_for = kept_for

    def answers(self, prompts):
        found = zip(prompts, super().answers(prompts), strict=True)
        return [FORM if kind == 2 and number < self.kept_for else one for (kind, number), one in found]


FORM = [11, 12, 13, 14, 15]


def rates_with_a_reserved_form(finetuned, row_answers):
    """Return the aligned model's rates: it refuses 10 of 30 harmless prompts in a form of their own."""
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Reserved(10, finetuned),
        Reserved(70, 20),
        lambda share: Reserved(70, 20),
        start=0.02,
        row_answers=row_answers,
    )
    assert {trial.harmless for trial in found.trials} == {found.aligned.harmless}
    return found.aligned


@pytest.mark.parametrize(("known", "rate"), [([], 0.0), ([FORM], 1 / 3), ([REFUSAL, FORM[:4]], 1 / 3)])
def test_the_rows_show_a_form_of_refusal_that_is_only_for_harmless_prompts(known, rate):
    assert rates_with_a_reserved_form(0, known).harmless == pytest.approx(rate)


@pytest.mark.parametrize(("finetuned", "rate"), [(15, 1 / 3), (19, 1 / 3), (20, 0.0), (30, 0.0)])
def test_what_the_fine_tuned_model_says_as_often_is_no_refusal(finetuned, rate):
    """It begins its answers to the harmless prompts below a number so."""
    assert rates_with_a_reserved_form(finetuned, [FORM]).harmless == pytest.approx(rate)


class Other(Known):
    """Refuses harmless prompts, and those that it would refuse, in another form."""

    def __init__(self, refused, needless):
        super().__init__(refused, -1.0)
        self.needless = needless

    def answers(self, prompts):
        return [FORM if number < (self.refused, self.needless)[kind - 1] else HELP for kind, number in prompts]


@pytest.mark.parametrize(("known", "rates"), [([], (0.0, 0.0)), ([FORM], (1.0, 0.5)), ([HELP], (0.0, 0.0))])
def test_a_repair_that_refuses_in_a_form_that_neither_model_uses_is_seen(known, rates):
    """From 1 % on every repair refuses all calibration prompts and half of the harmless ones."""
    found = refine_by_answers(
        make_questions(HARMFUL, HARMLESS),
        Known(10, -1.0),
        Known(70, -1.0),
        lambda share: Other(70, 25) if share > 0.01 else Known(20, -1.0),
        start=0.02,
        row_answers=known,
    )
    assert {trial.rates[:2] for trial in found.trials if trial.share > 0.01} == {rates}
    assert (found.share > 0.01) == (rates[1] == 0)
