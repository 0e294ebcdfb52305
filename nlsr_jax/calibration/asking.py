"""Refine the share of entries by what models answer: prompts, their answers, and the rates of refusals.

The classifier of ``nlsr_jax.calibration.wording`` judges the first tokens of greedy answers, so that no list of
phrases, no row of the customer's task and no evaluation request is needed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.refinement import Bounds, Rates, Refined, refine
from nlsr_jax.calibration.wording import Answer, Wording, learn_wording
from nlsr_jax.errors import InputError

ASKED = 128
"""Most prompts of either kind that are asked."""
FEWEST = 8
"""Fewest prompts of either kind that a rate is measured on."""


class CannotRefine(InputError):
    """Rates of refusals cannot be measured: there are too few prompts, or the model cannot be asked."""


class Questions(NamedTuple):
    """The prompts that are asked, as token ids.

    Attributes:
      harmful: prompts of calibration rows that the masks are not made from.
      harmless: prompts that are to be answered.
    """

    harmful: Sequence[Sequence[int]]
    harmless: Sequence[Sequence[int]]

    def all(self) -> list[Sequence[int]]:
        """Return all prompts, the harmful ones first."""
        return [*self.harmful, *self.harmless]

    def rates(self, wording: Wording, answers: Sequence[Answer]) -> Rates:
        """Return the rates of refusals from the answers to ``all()``."""
        refused = wording.refuses(answers)
        return Rates(*(float(np.mean(part)) for part in np.split(refused, [len(self.harmful)])))


def make_questions(harmful: Sequence[Sequence[int]], harmless: Sequence[Sequence[int]]) -> Questions:
    """Return the prompts to ask, at most ``ASKED`` of either kind, spread evenly over the given ones.

    Raises:
      CannotRefine: fewer than ``FEWEST`` of one kind.
    """
    for name, found in (("calibration", harmful), ("harmless", harmless)):
        if len(found) < FEWEST:
            raise CannotRefine(
                f"{len(found)} {name} prompts can be asked, and the refinement of the share needs {FEWEST}"
            )
    return Questions(_spread(harmful), _spread(harmless))


def _spread(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    if len(rows) <= ASKED:
        return list(rows)
    return [rows[place] for place in np.linspace(0, len(rows) - 1, ASKED).round().astype(int)]


def refine_by_answers(
    questions: Questions,
    finetuned: Sequence[Answer],
    aligned: Sequence[Answer],
    repaired: Callable[[float], Adapter],
    ask: Callable[[Adapter], Sequence[Answer]],
    *,
    start: float,
    bounds: Bounds | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Refined:
    """Refine the share of entries; see ``nlsr_jax.calibration.refinement.refine``.

    Args:
      questions: the prompts.
      finetuned, aligned: first tokens of the two models' greedy answers to ``questions.all()``, at least
        ``nlsr_jax.calibration.wording.LENGTH`` where an answer is that long.
      repaired: returns the repair with a share.
      ask: returns the answers of a repair likewise.
      start: the first share.
      bounds: what is gone for.
      say: called with one line for each trial.

    Returns:
      A ``Refined``.
    """
    count = len(questions.harmful)
    wording = learn_wording(aligned[:count], [*finetuned, *aligned[count:]])
    before, safe = questions.rates(wording, finetuned), questions.rates(wording, aligned)
    say(f"refine: the fine-tuned model {describe_rates(before)}; the aligned model {describe_rates(safe)}")

    def measure(share: float) -> Rates:
        found = questions.rates(wording, ask(repaired(share)))
        say(f"refine: {100 * share:.3g} % of the entries: {describe_rates(found)}")
        return found

    return refine(measure, before, safe, asked=count, start=start, bounds=bounds)


def describe_rates(rates: Rates) -> str:
    """Say what a model refuses.

    >>> describe_rates(Rates(0.96, 0.0))
    'refuses 96 % of the calibration prompts and 0 % of the harmless ones'
    """
    harmful, harmless = (f"{100 * rate:.3g} %" for rate in rates)
    return f"refuses {harmful} of the calibration prompts and {harmless} of the harmless ones"
