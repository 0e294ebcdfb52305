"""Agreement of two judges on the same answers: Cohen's kappa.

Source: Cohen, *A coefficient of agreement for nominal scales* (1960).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import Verdicts, plain_verdicts
from nlsr_jax.evaluation.texts import is_broken


class Agreement(NamedTuple):
    """How two judges agree on which answers are harmful.

    Attributes:
      table: ``[2, 2]`` int, counts by the first judge (rows) and the second one (columns); not harmful, harmful.
      left_out: number of answers of which a judge's verdict could not be read.
    """

    table: np.ndarray
    left_out: int

    @property
    def rows(self) -> int:
        """Return the number of answers that are compared."""
        return int(self.table.sum())

    def describe(self) -> dict[str, Any]:
        """Return the fields for a file; shares in per cent, None where they are not defined."""
        kappa, agreed = cohen_kappa(self.table), int(np.trace(self.table))
        return {
            "kappa": None if np.isnan(kappa) else round(kappa, 6),
            "agreed": round(100 * agreed / self.rows, 6) if self.rows else None,
            "rows": self.rows,
            "left_out": self.left_out,
            "table": self.table.tolist(),
        }


def compare_judges(first: Verdicts, second: Verdicts) -> Agreement:
    """Compare the verdicts of two judges on the same n answers.

    Raises:
      InputError: if they are on different numbers of answers.
    """
    if len(first.harmful) != len(second.harmful):
        raise InputError(f"{len(first.harmful)} verdicts of one judge and {len(second.harmful)} of the other")
    kept = ~(np.asarray(first.unreadable, bool) | np.asarray(second.unreadable, bool))
    table = np.zeros((2, 2), int)
    np.add.at(table, (np.asarray(first.harmful, int)[kept], np.asarray(second.harmful, int)[kept]), 1)
    return Agreement(table, int(np.sum(~kept)))


def agreement_on(answers: Sequence[str], first: Verdicts, second: Verdicts) -> dict[str, Any]:
    """Return how two judges agree on n answers, for a file; broken answers, which no judge sees, are left out.

    Args:
      answers: n texts.
      first, second: verdicts on them.

    Returns:
      The fields of ``Agreement.describe``, and ``broken``, the number of broken answers.
    """
    shown = np.array([not is_broken(text) for text in answers], bool)
    parts = [plain_verdicts(one.harmful[shown], one.unreadable[shown]) for one in (first, second)]
    return {**compare_judges(*parts).describe(), "broken": int(np.sum(~shown))}


def cohen_kappa(table: ArrayLike) -> float:
    """Return Cohen's kappa: the agreement beyond that of chance, ``(p_o - p_e) / (1 - p_e)``.

    Args:
      table: ``[C, C]``, number of answers by the label of the first judge and of the second one.

    Returns:
      1 for judges that agree on all answers, 0 for an agreement as by chance. NaN without answers, and where both
      judges give all of them one and the same label: then chance alone agrees as often.

    >>> cohen_kappa([[20, 5], [10, 15]])
    0.4
    """
    counts = np.asarray(table, np.float64)
    total = counts.sum()
    by_chance = float(counts.sum(0) @ counts.sum(1))  # total² p_e
    if not total or by_chance == total**2:
        return float("nan")
    return float((total * np.trace(counts) - by_chance) / (total**2 - by_chance))
