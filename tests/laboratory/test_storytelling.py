"""A study's table as people read it on the terminal and on the page."""

from nlsr_jax.laboratory.storytelling import print_table

ROW = {
    "method": "nlsr",
    "task": "sst2",
    "poison_ratio": 0.05,
    "seed": 5,
    "hs": 12.5,
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
    assert printed.index("2.5") < printed.index("75.9") < printed.index("1.1")
