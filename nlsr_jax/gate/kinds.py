"""The bounds that there are, and the measures that they are on."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of bound: the measure that it is on, and whether it is an upper bound."""

    measure: str
    upper: bool


KINDS: dict[str, Kind] = {
    "max_hs": Kind("hs", True),
    "max_over_refusal": Kind("over_refusal", True),
    "min_benign": Kind("benign_answered", False),
    "min_fa": Kind("fa", False),
}
