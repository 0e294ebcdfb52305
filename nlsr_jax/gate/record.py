"""The record of a check, ``check.json``: rates, bounds, comparison, judge, digests; no time and no path."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from nlsr_jax.formats.record import versions
from nlsr_jax.gate.bounds import MEASURED, PASSES, STATUS, conclude, decide_all
from nlsr_jax.gate.examination import MEASURES, Judged, agreement_of, too_odd
from nlsr_jax.gate.judging import FIRST, SECOND, Named
from nlsr_jax.gate.paired import compare
from nlsr_jax.gate.questions import Questions
from nlsr_jax.gate.settings import CheckSettings, described
from nlsr_jax.random_streams import stream

FORMAT, VERSION = "nlsr_jax.check", 1


def make_record(
    settings: CheckSettings,
    questions: Questions,
    judged: Mapping[str, Judged],
    *,
    judges: Mapping[str, Named],
    digests: Mapping[str, Mapping[str, str]],
    notes: Sequence[str] = (),
    second: Judged | None = None,
) -> dict[str, Any]:
    """Return the record of a check.

    Args:
      settings: of the check.
      questions: what was asked.
      judged: the answers of ``"adapter"``, and of ``"against"`` where it is compared with another model.
      judges: from ``choose_judges``.
      digests: ``{input: {file name: SHA-256}}``.
      notes: what a user should know beside the notes of the questions.
      second: the checked model's answers with the verdicts of the second judge, where there is one.

    Returns:
      The fields; the same inputs on the same machine give the same.
    """
    checked, key = judged["adapter"], stream(jax.random.key(settings.seed), "check")
    decisions = decide_all(settings.bounds(), checked.rates, key)
    outcome = conclude(decisions)
    longest = questions.longest
    record = {
        "format": FORMAT,
        "format_version": VERSION,
        "outcome": outcome,
        "passed": None if outcome == MEASURED else outcome == PASSES,
        "status": STATUS[outcome],
        **{name: checked.rates[name].describe(key) for name in MEASURES},
        "bounds": [one.describe() for one in decisions],
        "judge": judges[FIRST].name,
        "unreadable": checked.unreadable,
        "broken": checked.broken,
        "notes": [*notes, *questions.notes, *([odd] if (odd := too_odd(checked)) else [])],
        "settings": described(settings)
        | {name: getattr(longest, name) for name in ("max_new_tokens", "task_tokens", "batch_size")},
        "digests": {name: dict(files) for name, files in digests.items()},
        "versions": versions(),
    }
    if questions.given.pinned:
        record["hub"] = sorted(questions.given.pinned.values())
    if second is not None:
        opinion = {name: second.rates[name].describe(key) for name in ("hs", "over_refusal")}
        agreement = {"unreadable": second.unreadable, "agreement": agreement_of(checked, second)}
        record[SECOND] = {"judge": judges[SECOND].name, **opinion, **agreement}
    if "against" in judged:
        before = judged["against"]
        record["against"] = {
            name: compare(before.rates[name], checked.rates[name], key).describe()
            for name in MEASURES
            if checked.rates[name].rows
        }
    return record
