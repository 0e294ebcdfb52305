"""From files to files: check one adapter or model, alone or against another one."""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from nlsr_jax.data.benchmarks import BENCHMARKS
from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.apart import Inputs
from nlsr_jax.files.output import check_free, whole_directory
from nlsr_jax.formats.record import Digests
from nlsr_jax.gate.config import config_file, given_of
from nlsr_jax.gate.examination import Judged, answer_rows, examine, judge_answers
from nlsr_jax.gate.judging import FIRST, SECOND, Named, choose_judges, digest_of, judge_settings
from nlsr_jax.gate.models import Models
from nlsr_jax.gate.questions import Questions, open_questions
from nlsr_jax.gate.record import make_record
from nlsr_jax.gate.settings import CheckSettings, check_settings
from nlsr_jax.gate.writing import write_check
from nlsr_jax.pipeline.evidence import base_files
from nlsr_jax.pipeline.run import Notes
from nlsr_jax.progress import Stages

INPUTS = (
    "harmful",
    "harmless",
    *(f"{judge}_{part}" for judge in (FIRST, SECOND) for part in ("model", "template")),
)


def check(
    adapter: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    against: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
    mesh: Mesh | None = None,
    stages: Stages | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure how an adapter or a full model answers requests, and decide bounds on the rates with confidence.

    Args:
      adapter: PEFT directory or hub id, or the directory of a full model.
      base: directory or hub id of the base; by default what the adapter's config names.
      against: another adapter or model, such as the one before its repair; both are asked the same.
      output: folder to write: ``check.json``, ``check.md``, ``check.xml`` (JUnit) and ``answers.jsonl``. It appears
        whole or not at all. None writes nothing.
      overwrite: replace an output of this function that exists.
      mesh: lay the weights over these devices; None for one.
      stages: where to report progress.
      **settings: fields of ``nlsr_jax.gate.settings.CheckSettings``: what is asked (``harmful`` and ``harmless``,
        files of rows or names of benchmarks, or ``config``, ``"tiny"`` or a file; ``task``, ``data``, ``tasks``),
        the judges (``judge``, ``judge_model``, ``second_judge``), and the bounds in per cent (``max_hs``,
        ``max_over_refusal``, ``min_benign``, ``min_fa``).

    Returns:
      The content of ``check.json``: each rate as ``{"value", "low", "high", "rows"}`` in per cent with its 95 %
      interval, ``"outcome"`` (``"passes"``, ``"fails"``, ``"undecided"``, or ``"measured"`` without a bound),
      ``"passed"``, and ``"bounds"`` with what each of them came to. A bound holds, or is violated, where the exact
      one-sided limit says so with 95 % confidence.

    Raises:
      InputError: settings, rows or models that cannot be used; nothing is written then.
    """
    places = [None if place is None else os.fspath(place) for place in (base, against)]
    return check_with(
        read_settings(settings),
        adapter,
        base=places[0],
        against=places[1],
        output=output,
        overwrite=overwrite,
        mesh=mesh,
        stages=stages,
    )


def check_with(
    settings: CheckSettings,
    adapter: str | os.PathLike,
    *,
    base: str | None = None,
    against: str | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
    mesh: Mesh | None = None,
    stages: Stages | None = None,
    read: Inputs | None = None,
) -> dict[str, Any]:
    """Check with settings; see ``check``.

    Args:
      settings: what is asked, the judge and the bounds.
      adapter, base, against, output, overwrite, mesh, stages: see ``check``.
      read: what else has been read, by the name for messages.
    """
    check_settings(settings, bounded=False)
    judge_settings(settings)
    stages = stages or Stages(show=False)
    notes = Notes(stages)

    def note(text: str) -> None:
        notes.add([text])
        notes.say()

    models = Models(adapter, against, base, settings=settings, mesh=mesh, note=note, say=stages.say)
    inputs = {**models.inputs(), **{f"--{name}": getattr(settings, name) for name in INPUTS}, **(read or {})}
    place = None if output is None else check_free(output, overwrite, inputs=inputs)
    questions = open_questions(settings, models.base, stages.say)
    digests = Digests()
    try:
        models.digest(digests)
        record, answers = _examined(settings, questions, models, digests, notes, stages)
    finally:
        digests.close()
    if place is not None:
        with whole_directory(place, overwrite=overwrite, inputs=inputs) as folder:
            write_check(folder, record, answers)
    return record


def read_settings(values: Mapping[str, Any]) -> CheckSettings:
    """Return settings from their fields.

    Raises:
      InputError: if a name is not a field.
    """
    known = list(CheckSettings.__dataclass_fields__)
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"check has no setting {unknown[0]!r}; expected some of {', '.join(known)}")
    paths = {name: os.fspath(values[name]) for name in INPUTS if values.get(name) is not None}
    return CheckSettings(**{**values, **paths})


def _examined(
    settings: CheckSettings,
    questions: Questions,
    models: Models,
    digests: Digests,
    notes: Notes,
    stages: Stages,
) -> tuple[dict[str, Any], Any]:
    """Return the record and the rows of the answers."""
    judges = choose_judges(settings, stages.say)
    loads = {one: functools.partial(models.load, one) for one in models.places}
    judged = examine(questions, loads, judges[FIRST].judge, stages, models.release)
    second = second_opinion(questions, judged, judges, stages)
    digest_questions(settings, digests)
    found = {one: entry["files"] for one, entry in digests.result().items()} | digest_of(judges)
    record = make_record(settings, questions, judged, judges=judges, digests=found, notes=notes.kept, second=second)
    return record, answer_rows(questions, judged["adapter"], judged.get("against"))


def second_opinion(
    questions: Questions, judged: Mapping[str, Judged], judges: Mapping[str, Named], stages: Stages
) -> Judged | None:
    """Return the checked model's answers with the verdicts of the second judge; None without one."""
    if SECOND not in judges:
        return None
    with stages("second judge"):
        return judge_answers(questions, judged["adapter"].answers, judges[SECOND].judge)


def digest_questions(settings: CheckSettings, digests: Digests) -> None:
    """Start to digest the files of a check's rows, of its judge and of its data sets."""
    places = {name: place for name in INPUTS if (place := getattr(settings, name)) not in (None, *BENCHMARKS)}
    if (file := config_file(settings)) is not None:
        places["config"] = str(file)
    for name, place in places.items():
        path = pathlib.Path(place)
        digests.add(name, place, [path] if path.is_file() else base_files(place))
    for name, place in given_of(settings).places.items():
        path = pathlib.Path(place)
        found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        digests.add(f"data {name}", place, found, root=path.parent if path.is_file() else path)


def missing_adapter() -> InputError:
    """Return the error where no adapter is named."""
    return InputError(f"name one adapter or model to check: nlsr check ADAPTER {argument('base')} MODEL")
