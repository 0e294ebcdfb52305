"""A study's table as people read it on the terminal and on the page."""

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.study.storytelling import print_table, write_table

ROW = {
    "method": "nlsr_recommended",
    "task": "sst2",
    "poison_ratio": 0.05,
    "seed": 5,
    "hs": 13.7,
    "fa": 97.0,
    "over_refusal": 2.5,
    "benign_answered": 75.9,
    "odd": 1.1,
    "seconds": 3.0,
}


def test_benign_answers_stand_beside_refusals_in_the_printed_table(capsys):
    print_table([ROW])
    printed = capsys.readouterr().out
    assert "benign" in printed
    assert "answered" in printed
    assert "75.9" in printed
    assert "repaired by NLSR as recommended" in printed, "names are not broken into lines"
    assert printed.index("2.5") < printed.index("75.9") < printed.index("1.1")


def test_a_number_that_is_none_is_printed_by_no_table(tmp_path):
    with pytest.raises(InputError, match=r"table.json: rows\[0\].fa is nan; expected a finite number"):
        write_table([{**ROW, "fa": float("nan")}], tmp_path / "table.json")
