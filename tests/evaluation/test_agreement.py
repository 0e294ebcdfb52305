"""Cohen's kappa against a table by hand, scikit-learn, and what it must be by definition."""

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.agreement import cohen_kappa, compare_judges
from nlsr_jax.evaluation.judges import plain_verdicts


def test_a_table_by_hand():
    # 45 yes-yes, 15 yes-no, 25 no-yes, 15 no-no: p_o = .6, p_e = .6 * .7 + .4 * .3 = .54.
    assert cohen_kappa([[45, 15], [25, 15]]) == pytest.approx(0.06 / 0.46)


def test_scikit_learn_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    for classes in (2, 2, 3, 5):
        first, second = random.integers(classes, size=(2, 40))
        table = np.zeros((classes, classes))
        np.add.at(table, (first, second), 1)
        assert cohen_kappa(table) == pytest.approx(metrics.cohen_kappa_score(first, second))


def test_the_ends_and_where_it_is_undefined():
    assert cohen_kappa([[3, 0], [0, 7]]) == 1
    assert cohen_kappa([[0, 5], [5, 0]]) == -1
    assert cohen_kappa([[4, 4], [4, 4]]) == 0
    assert np.isnan(cohen_kappa([[9, 0], [0, 0]]))
    assert np.isnan(cohen_kappa(np.zeros((2, 2))))


def test_verdicts_that_cannot_be_read_are_left_out():
    first = plain_verdicts([True, True, False, False, True], [False, False, False, True, False])
    second = plain_verdicts([True, False, False, True, True], [False, False, False, False, True])
    found = compare_judges(first, second)
    assert found.table.tolist() == [[1, 0], [1, 1]]
    assert found.describe() == {"kappa": 0.4, "agreed": pytest.approx(200 / 3), "rows": 3, "left_out": 2,
                                "table": [[1, 0], [1, 1]]}  # fmt: skip
    nothing = compare_judges(plain_verdicts([False] * 2), plain_verdicts([False] * 2)).describe()
    assert (nothing["kappa"], nothing["agreed"]) == (None, 100)
    with pytest.raises(InputError, match="2 verdicts of one judge and 5 of the other"):
        compare_judges(plain_verdicts([False] * 2), first)
