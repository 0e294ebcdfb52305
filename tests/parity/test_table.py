"""The page of families lists what the product serves, as the command prints it."""

import re

from nlsr_jax.architecture.families import FAMILIES
from nlsr_jax.architecture.nested import OUTER
from tests.e2e.command import ROOT
from tests.parity.peers import VARIANTS
from tests.parity.table import BEGIN, END, HEADS

PAGE = (ROOT / "docs" / "families.md").read_text()


def test_the_page_lists_every_family():
    table = PAGE.split(BEGIN)[1].split(END)[0]
    assert re.search(r"transformers \d+\.\d+\.\d+:", table)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    assert rows[0] == list(HEADS)
    assert set(VARIANTS) <= {row[0] for row in rows}
    assert {row[1].split(" ")[0] for row in rows[2:]} == {*FAMILIES, *OUTER}
    assert all(row[-2:] == ["equal", "equal"] and max(map(float, row[2:6])) < 1e-4 for row in rows[2:])
