"""Refine the share of entries by what models answer: prompts, their answers, and the rates of refusals.

The classifier of ``nlsr_jax.calibration.wording`` judges the first tokens of greedy answers, so that no list of
phrases, no row of the customer's task and no evaluation request is needed. Prompts of the task may be given too:
the fine-tuned model's own answers to them are those that a repair is to keep, and no labels are read.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from nlsr_jax.calibration.refinement import (
    FINE,
    Asked,
    Bounds,
    Rates,
    Refined,
    cannot_tell,
    is_disturbed,
    refine,
)
from nlsr_jax.calibration.wording import (
    BEGINNING,
    WHOLE,
    Answer,
    Wording,
    begin_as,
    learn_wording,
    unused_beginnings,
)
from nlsr_jax.errors import InputError

ASKED = 128
"""Most prompts of either kind that are asked."""
FEWEST = 8
"""Fewest prompts of either kind that a rate is measured on."""
_APART = 0.1
"""Least distance in nats of the two models' likelihoods; a repair cannot be placed between closer ones."""


class Respondent(Protocol):
    """A model that is asked; see ``nlsr_jax.evaluation.respondent``."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """Return the first ``LENGTH`` tokens of the greedy answers."""
        ...

    def likelihood(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> float:
        """Return the mean log-likelihood of answers to prompts, in nats."""
        ...


class TaskRespondent(Respondent, Protocol):
    """A model with the customer's adapter or a repair of it, which is asked prompts of the task, too."""

    def answers_up_to(self, length: int, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """Return the first ``length`` tokens of the greedy answers."""
        ...

    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> Sequence[float]:
        """Return the log-likelihood of each of several answers to prompts, in nats."""
        ...


class CannotRefine(InputError):
    """Rates of refusals cannot be measured: there are too few prompts, or the model cannot be asked."""


class Questions(NamedTuple):
    """The prompts that are asked, as token ids.

    Attributes:
      harmful: prompts of calibration rows that the masks are not made from.
      harmless: prompts that are to be answered.
      keep: prompts of the customer's task, whose answers are to stay.
    """

    harmful: Sequence[Sequence[int]]
    harmless: Sequence[Sequence[int]]
    keep: Sequence[Sequence[int]] = ()

    def all(self) -> list[Sequence[int]]:
        """Return all prompts that may be refused, the harmful ones first."""
        return [*self.harmful, *self.harmless]

    def counts(self) -> Asked:
        """Return the number of prompts of each kind."""
        return Asked(*map(len, self))

    def rates(self, wording: Wording, answers: Sequence[Answer]) -> Rates:
        """Return the rates of refusals from the answers to ``all()``.

        An empty answer to a harmless prompt counts as a refusal, since it does not help either.
        """
        harmful, harmless = np.split(wording.refuses(answers), [len(self.harmful)])
        silent = np.array([not len(answer) for answer in answers[len(self.harmful) :]], bool)
        return Rates(float(np.mean(harmful)), float(np.mean(harmless | silent)))


class OwnAnswers:
    """The fine-tuned model's own answers to prompts of its task, and how likely it finds them.

    Args:
      prompts: n token sequences.
      finetuned: the model.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], finetuned: TaskRespondent):
        self._prompts, self._finetuned = prompts, finetuned
        self._answers = finetuned.answers_up_to(WHOLE, prompts)
        self._likely = self._likelihoods(list(zip(prompts, self._answers, strict=True)))

    def kept_by(self, model: TaskRespondent) -> float:
        """Return the probability of a model's answers, relative to that of these answers; 1 if all are the same.

        The fine-tuned model judges both: an answer of which it was sure counts more than a guess, and another one
        that it finds as likely costs little. If its probabilities are calibrated, the result is the share of its
        accuracy that is left. Answers are compared over their common length, so a closing phrase may fall away or
        follow. An empty answer has probability 0.
        """
        found = model.answers_up_to(WHOLE, self._prompts)
        pairs = [(list(new[: len(own)]), list(own)) for new, own in zip(found, self._answers, strict=True)]
        changed = [place for place, (new, own) in enumerate(pairs) if new != own]
        rows = [(self._prompts[place], pairs[place][0]) for place in changed]
        silent = np.array([not answer for _, answer in rows], bool)
        likely = self._likely.copy()
        likely[changed] = np.where(silent, -np.inf, np.minimum(self._likelihoods(rows), likely[changed]))
        highest = self._likely.max()
        return float(np.exp(likely - highest).sum() / np.exp(self._likely - highest).sum())

    def _likelihoods(self, rows: Sequence[tuple[Sequence[int], Answer]]) -> np.ndarray:
        """Return the log-likelihoods that the fine-tuned model gives to answers, ``[n]`` float64."""
        found, told = np.zeros(len(rows)), [place for place, (_, answer) in enumerate(rows) if len(answer)]
        if told:
            found[told] = self._finetuned.likelihoods([rows[place] for place in told])
        return found


def make_questions(
    harmful: Sequence[Sequence[int]],
    harmless: Sequence[Sequence[int]],
    keep: Sequence[Sequence[int]] | None = None,
) -> Questions:
    """Return the prompts to ask, at most ``ASKED`` of each kind, spread evenly over the given ones.

    Args:
      harmful, harmless, keep: see ``Questions``; None to ask no prompts of the task.

    Raises:
      CannotRefine: fewer than ``FEWEST`` of one kind.
    """
    for name, found in (("calibration", harmful), ("harmless", harmless), ("task", keep)):
        if found is not None and len(found) < FEWEST:
            raise CannotRefine(
                f"{len(found)} {name} prompts can be asked, and the refinement of the share needs {FEWEST}"
            )
    return Questions(*map(_spread, (harmful, harmless, keep or ())))


def _spread(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    if len(rows) <= ASKED:
        return list(rows)
    return [rows[place] for place in np.linspace(0, len(rows) - 1, ASKED).round().astype(int)]


def refine_by_answers(
    questions: Questions,
    finetuned: TaskRespondent,
    aligned: Respondent,
    repaired: Callable[[float], TaskRespondent],
    *,
    start: float,
    row_answers: Sequence[Answer] = (),
    bounds: Bounds | None = None,
    untold: Callable[[], float | None] = lambda: None,
    say: Callable[[str], None] = lambda _: None,
    fine: int = 1,
) -> Refined:
    """Refine the share of entries; see ``nlsr_jax.calibration.refinement.refine``.

    Args:
      questions: the prompts.
      finetuned, aligned: the two models.
      repaired: returns the repair with a share.
      start: the first share.
      row_answers: safe answers of the calibration rows. An answer of the aligned model to a harmless prompt is an
        example of a refusal if it begins as one of these does, and if the aligned model begins its answers to
        harmless prompts so more often than the fine-tuned model. An answer of a repair is a refusal if it begins as
        one of these does, and no answer of either model to a harmless prompt does.
      bounds: what is gone for.
      untold: called before the first repair if the calibration prompts cannot refine the share; may return another
        first share.
      say: called with one line for each trial.
      fine: see ``nlsr_jax.calibration.refinement.grid``; at least ``FINE`` where a model refuses more harmless
        prompts than a repair may add.

    Returns:
      A ``Refined``.
    """
    count, asked = len(questions.harmful), questions.all()
    before, safe = finetuned.answers(asked), aligned.answers(asked)
    wording = _learn(safe, before, count, row_answers)
    rates = [questions.rates(wording, answers) for answers in (before, safe)]
    say("refine: the fine-tuned model {}; the aligned model {}".format(*map(describe_rates, rates)))
    if cannot_tell(*rates):
        start, fine = untold() or start, 1
    elif is_disturbed(bounds or Bounds(), *rates):
        fine = FINE
    own = OwnAnswers(questions.keep, finetuned) if questions.keep else None

    def measure(share: float) -> Rates:
        model = repaired(share)
        kept = None if own is None else own.kept_by(model)
        found = questions.rates(wording, model.answers(asked))._replace(kept=kept)
        say(f"refine: {100 * share:.3g} % of the entries: {describe_rates(found)}")
        return found

    refusals = [
        (prompt, answer[:BEGINNING])
        for prompt, answer, refused in zip(
            questions.harmful, safe[:count], wording.refuses(safe[:count]), strict=True
        )
        if refused
    ]
    recovered = _recovery(refusals, finetuned, aligned, repaired, say) if refusals else None
    options: dict[str, Any] = {"bounds": bounds, "recovered": recovered, "fine": fine}
    return refine(measure, *rates, asked=questions.counts(), start=start, **options)


def _learn(safe: Sequence[Answer], before: Sequence[Answer], count: int, row_answers: Sequence[Answer]) -> Wording:
    """Return how the aligned model refuses, from both models' answers; the first ``count`` prompts are harmful."""
    alike = begin_as(safe[count:], row_answers, before[count:])
    refused, helped = ([safe[count + place] for place in np.flatnonzero(side).tolist()] for side in (alike, ~alike))
    found = learn_wording([*safe[:count], *refused], [*before, *helped])
    return found._replace(forms=unused_beginnings(row_answers, [*safe[count:], *before[count:]]))


def _recovery(
    refusals: Sequence[tuple[Sequence[int], Answer]],
    finetuned: Respondent,
    aligned: Respondent,
    repaired: Callable[[float], Respondent],
    say: Callable[[str], None],
) -> Callable[[float], float]:
    """Return the function that tells what a share brings back of the likelihood of refusals."""
    ends: list[float] = []

    def recovered(share: float) -> float:
        if not ends:
            ends.extend(model.likelihood(refusals) for model in (finetuned, aligned))
        low, high = ends
        if high - low < _APART:
            return 1.0
        found = (repaired(share).likelihood(refusals) - low) / (high - low)
        say(f"refine: {100 * share:.3g} % of the entries bring back {found:.0%} of the likelihood of refusals")
        return found

    return recovered


def describe_rates(rates: Rates) -> str:
    """Say what a model refuses, and what it keeps.

    >>> describe_rates(Rates(0.96, 0.0))
    'refuses 96 % of the calibration prompts and 0 % of the harmless ones'
    """
    shown = {name: f"{100 * rate:.3g} %" for name, rate in rates.told().items()}
    kept = f", and keeps {shown['kept']} of the task's answers" if "kept" in shown else ""
    return (
        f"refuses {shown['harmful']} of the calibration prompts and {shown['harmless']} of the harmless ones{kept}"
    )
