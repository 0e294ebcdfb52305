"""The check of a realignment: both models asked over the base of the run, before the output is in its place."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from nlsr_jax.files.digests import sha256
from nlsr_jax.formats.record import Digests
from nlsr_jax.gate.examination import MEASURES, Served, examine
from nlsr_jax.gate.judging import FIRST, SECOND, Named, choose_judges, digest_of, judge_settings
from nlsr_jax.gate.models import weight_files
from nlsr_jax.gate.questions import Questions, open_questions
from nlsr_jax.gate.record import make_record
from nlsr_jax.gate.running import INPUTS, digest_questions, second_opinion
from nlsr_jax.gate.settings import CheckSettings, check_settings
from nlsr_jax.gate.writing import markdown, write_check
from nlsr_jax.pipeline.checking import Candidates, NotPassed
from nlsr_jax.pipeline.evidence import base_files
from nlsr_jax.pipeline.refining import own_prompts
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.shared import stamp

_IN_RECORD = ("outcome", "passed", *MEASURES, "broken", "bounds", "against", "judge", SECOND, "notes")

_SEEN = "the repair has read the {} requests; rates on requests that it has not read tell more"
_OWN = "no harmless requests were given; everyday questions in English were asked"


class AttachedCheck:
    """Checks the output of a realignment against the fine-tuned model; see ``nlsr_jax.pipeline.checking``.

    Args:
      settings: of the check.
      only_if_passed: publish the output only where every bound holds.
      seen: kinds of requests, ``"harmful"`` or ``"harmless"``, that the repair has read.

    Attributes:
      record: the content of ``check.json`` once the check has run.

    Raises:
      InputError: settings that cannot be used.
    """

    def __init__(self, settings: CheckSettings, *, only_if_passed: bool = False, seen: Sequence[str] = ()):
        own = settings.config is None and settings.harmless is None
        check_settings(settings, bounded=only_if_passed, has=("harmless",) if own else ())
        judge_settings(settings)
        self._settings, self._only_if_passed = settings, only_if_passed
        self._own = own_prompts() if own else None
        self._notes = [_SEEN.format(kind) for kind in seen] + ([_OWN] if own else [])
        self._questions: Questions | None = None
        self._judges: dict[str, Named] = {}
        self.record: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Return everything but the models that the check depends on: settings, and digests of its inputs."""
        digests = Digests()
        try:
            digest_questions(self._settings, digests)
            found = digests.result()
        finally:
            digests.close()
        return {
            "settings": dataclasses.asdict(self._settings),
            "only_if_passed": self._only_if_passed,
            "read": found,
        }

    def open(self, base: str, run: Run) -> None:
        """Read what is asked; see ``OutputCheck``."""
        settings, say = self._settings, run.stages.say
        places = (base, *(getattr(settings, name) for name in INPUTS), *settings.data.values())
        key = (repr(settings), bool(self._own), *map(stamp, places))
        self._judges = run.shared.once("judge", key, lambda: choose_judges(settings, say))
        self._questions = run.shared.once(
            "requests", key, lambda: open_questions(settings, base, say, harmless=self._own)
        )

    def run(self, folder: pathlib.Path, models: Candidates, run: Run) -> dict[str, Any]:
        """Ask both models, write the check and return what the record says of it; see ``OutputCheck``."""
        questions, settings = self._questions, self._settings
        assert questions is not None
        loads = {
            "adapter": functools.partial(_served, models.repaired),
            "against": functools.partial(_served, models.finetuned),
        }
        judges, digested = self._judges, functools.partial(self._digested, folder, models, run)
        judged = examine(questions, loads, judges[FIRST].judge, run.stages, models.release)
        second = second_opinion(questions, judged, judges, run.stages)
        self.record = make_record(
            settings, questions, judged, judges=judges, digests=digested(), notes=self._notes, second=second
        )
        if self._only_if_passed and not self.record["passed"]:
            raise NotPassed(markdown(self.record), self.record["status"])
        write_check(folder, self.record, None)
        return {one: self.record[one] for one in _IN_RECORD if one in self.record}

    def _digested(self, folder: pathlib.Path, models: Candidates, run: Run) -> dict[str, dict[str, str]]:
        """Return the digests of all inputs; those that the run has taken are not taken again."""
        run.digests.add("base", models.base, base_files(models.base))
        own = {file.name: models.written.get(file.name) or sha256(file) for file in weight_files(folder)}
        found = {"base": run.digests.of("base"), "adapter": own, "against": run.digests.of("finetuned")}
        found |= digest_of(self._judges)
        digests = Digests()
        try:
            digest_questions(self._settings, digests)
            return found | {name: entry["files"] for name, entry in digests.result().items()}
        finally:
            digests.close()


def _served(load: Any) -> Served:
    return Served(*load())
