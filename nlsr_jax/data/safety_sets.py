"""Safety data sets: BeaverTails and PKU-SafeRLHF rows as examples and preferences.

Source: the sets used in the paper (section on experimental settings, and the authors' scripts). Rows are
always taken in file order.
"""

from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.prompts import Render
from nlsr_jax.data.row_values import BadRow, Row, UnwantedRow, as_flag

BEAVERTAILS_CATEGORIES = (
    "animal_abuse",
    "child_abuse",
    "controversial_topics,politics",
    "discrimination,stereotype,injustice",
    "drug_abuse,weapons,banned_substance",
    "financial_crime,property_crime,theft",
    "hate_speech,offensive_language",
    "misinformation_regarding_ethics,laws_and_safety",
    "non_violent_unethical_behavior",
    "privacy_violation",
    "self_harm",
    "sexually_explicit,adult_content",
    "terrorism,organized_crime",
    "violence,aiding_and_abetting,incitement",
)
"""The 14 categories in the data set's order; a name may contain commas."""


def beavertails_safe(row: Row, render: Render) -> Example:
    """Make an SFT example from a row whose answer is safe."""
    if not row.flag("is_safe"):
        raise UnwantedRow("not safe")
    return Example(render(row.text("prompt"), ""), row.text("response"), "safe", categories=categories(row))


def beavertails_harmful(row: Row, render: Render) -> Example:
    """Make a poison example from a row whose answer is unsafe."""
    if row.flag("is_safe"):
        raise UnwantedRow("safe")
    return Example(render(row.text("prompt"), ""), row.text("response"), "harmful", categories=categories(row))


def beavertails_prompts(row: Row, render: Render) -> Example:
    """Make a test prompt, with categories and without an answer, from a row whose answer is unsafe."""
    if row.flag("is_safe"):
        raise UnwantedRow("safe")
    if not row.has("category"):
        raise BadRow("category", "is missing")
    return Example(render(row.text("prompt"), ""), "", "harmful", categories=categories(row))


def categories(row: Row) -> tuple[str, ...]:
    """Return the categories flagged in a BeaverTails row; empty if it has no category column."""
    if not row.has("category"):
        return ()
    flags = row.nested("category", dict)
    if set(flags) != set(BEAVERTAILS_CATEGORIES):
        raise BadRow("category", "does not have the 14 categories", f"{len(flags)} names")
    # A CSV cell holds JSON here, so booleans are real booleans.
    return tuple(name for name in BEAVERTAILS_CATEGORIES if as_flag(f"category.{name}", flags[name], False))


def safe_rlhf(row: Row, render: Render) -> Preference:
    """Make a preference from a row with exactly one safe answer, which is the chosen one."""
    answers = _answers(row)
    safe = [text for text, flag in answers if flag]
    unsafe = [text for text, flag in answers if not flag]
    if len(safe) != 1:
        raise UnwantedRow("both safe" if safe else "both unsafe")
    return Preference(render(row.text("prompt"), ""), safe[0], unsafe[0])


def _answers(row: Row) -> list[tuple[str, bool]]:
    return [(row.text(f"response_{i}"), row.flag(f"is_response_{i}_safe")) for i in (0, 1)]


class KtoQuota:
    """Pick at most one answer of each PKU-SafeRLHF row until two quotas are full.

    A safe answer is preferred while the safe quota lasts; otherwise an unsafe one is taken. If both answers are
    alike, the first is taken. The kind of an example, ``"safe"`` or ``"harmful"``, says whether it is desirable.

    Args:
      safe: quota of safe answers.
      unsafe: quota of unsafe answers.
    """

    def __init__(self, safe: int, unsafe: int):
        self.left = {True: safe, False: unsafe}

    def __call__(self, row: Row, render: Render) -> Example:
        """Make an example from a row and count it against its quota."""
        answers = _answers(row)
        prompt = render(row.text("prompt"), "")
        for kind in (True, False):
            texts = [text for text, flag in answers if flag == kind]
            if texts and self.left[kind] > 0:
                self.left[kind] -= 1
                return Example(prompt, texts[0], "safe" if kind else "harmful")
        raise UnwantedRow("quota full")

    def missing(self) -> str:
        """Describe how many answers are still missing."""
        return f"{self.left[True]} safe and {self.left[False]} unsafe answers are missing; lower these quotas"
