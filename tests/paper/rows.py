"""Rows of cells made up from a rule, for tests of what is made of them."""

import dataclasses

SEEDS = (5, 6)


def made_up(cells, score):
    """Rows by cell; ``score(cell)`` gives HS, FA and over-refusal."""
    rows = {}
    for cell in cells:
        hs, fa, refused = score(cell)
        scores = {"hs": hs, "fa": fa, "over_refusal": refused, "benign_answered": 100 - refused}
        rows[cell] = {**scores, "topics": {"one": hs, "two": fa}}
    return rows


def seeded(cells, seeds=SEEDS):
    return [dataclasses.replace(cell, seed=seed) for cell in cells for seed in seeds]
