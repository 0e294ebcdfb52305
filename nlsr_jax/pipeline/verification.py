"""Check what a run has written against its record, and the record against the run."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nlsr_jax.attestation.checking import Signer, check_attestation
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.folders import elsewhere
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.ownership import ATTESTATIONS
from nlsr_jax.files.paths import expand, expand_text, is_folder, is_regular
from nlsr_jax.formats import record as records
from nlsr_jax.formats.companions import CARD
from nlsr_jax.pipeline.accompanying import INPUT as COMPANIONS
from nlsr_jax.pipeline.checking import CHECK
from nlsr_jax.pipeline.masking import identify_files
from nlsr_jax.pipeline.realignment import realign_files
from nlsr_jax.pipeline.recording import IDENTIFICATION, IDENTIFICATION_FILE, TEMPLATE
from nlsr_jax.pipeline.settings import PATHS, from_record
from nlsr_jax.pipeline.templating import JINJA
from nlsr_jax.progress import Stages

_TEMPORAL = ("report.html", "checkpoint/")
"""Outputs that another run need not repeat: the page names device and versions, Orbax's files hold the time."""

_OF_CHECK = ("check.json", "check.md", "check.xml", CARD)
"""Outputs with the figures of a check, which is not repeated."""


_OWNERS = {COMPANIONS: "finetuned", TEMPLATE: "base"}
"""Inputs whose files lie beside those of another one."""


class Findings(NamedTuple):
    """What a check has found.

    Attributes:
      changed: a line for everything that is not as recorded.
      missing: a line for every input that is not at hand, and for every signature, that was not compared.
      compared: how many files are as recorded.
    """

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    compared: int


def verify(
    output: str | os.PathLike,
    *,
    moved: Mapping[str, str] | None = None,
    recompute: bool = False,
    signer: Signer | None = None,
    stages: Stages | None = None,
) -> Findings:
    """Check an output of ``realign_files`` or ``identify_files``.

    Args:
      output: the folder.
      moved: ``{input: path}`` of inputs that lie elsewhere than the record says.
      recompute: also run it again, into a temporary folder, and compare adapter, config and masks.
      signer: who must have signed the statement of ``attest``; by default its signatures are not checked.
      stages: where to report progress.

    Raises:
      InputError: no record that can be read, or, to run it again, inputs that cannot be used.
    """
    folder, moved = expand(output), {name: expand_text(path) for name, path in (moved or {}).items()}
    file, record, sealed = read_output(folder)
    why = "is not what was written" if "seal" in record else "has no seal; it was removed, or never written"
    changed = [] if sealed else [f"{file.name}: {why}"]
    attested = check_attestation(folder, file, record, signer or Signer(), sealed=sealed)
    found = [
        compare_outputs(folder, file.name, record),
        compare_inputs(record, moved),
        Findings(attested.changed, attested.notes, attested.compared),
    ]
    changed += [line for one in found for line in one.changed]
    missing = [line for one in found for line in one.missing]
    compared = sum(one.compared for one in found)
    if recompute:
        again = _run_again(folder, file, record, moved, stages)
        changed, compared = changed + list(again.changed), compared + again.compared
    return Findings(tuple(changed), tuple(missing), compared)


def read_output(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any], bool]:
    """Return the record's file, its content and whether it is as it was written.

    Args:
      folder: the output of a run.

    Raises:
      InputError: no record of a run that can be read.
    """
    for name, kind in ((records.FILE, records.FORMAT), (IDENTIFICATION_FILE, IDENTIFICATION)):
        file = folder / name
        if is_regular(file):
            record = read_json_object(file, "record")
            parts = [record.get(part) for part in ("settings", "inputs", "outputs")]
            shaped = all(isinstance(part, dict) for part in parts)
            if record.get("format") != kind or not shaped or not records.are_inputs(record["inputs"]):
                raise InputError(f"{file}: not a record of a run (format is {record.get('format')!r})")
            return file, record, records.is_sealed(file)
    hint = elsewhere(folder, (records.FILE, IDENTIFICATION_FILE)) if is_folder(folder) else ""
    raise InputError(
        f"{folder}: no {records.FILE} and no {IDENTIFICATION_FILE}; expected the output of a run{hint}"
    )


def compare_outputs(folder: pathlib.Path, name: str, record: Mapping[str, Any]) -> Findings:
    """Compare the files of an output with its record; those of an attestation are not part of it.

    Args:
      folder: the output.
      name: of the record's file.
      record: what it holds.
    """
    recorded = record["outputs"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there -= {name, *ATTESTATIONS}
    changed = [f"{file}: is missing" for file in sorted(set(recorded) - there)]
    changed += [f"{file}: is not in the record" for file in sorted(there - set(recorded))]
    same = 0
    for file in sorted(there & set(recorded)):
        if sha256(folder / file) == recorded[file]:
            same += 1
        else:
            changed.append(f"{file}: has changed")
    return Findings(tuple(changed), (), same)


def compare_inputs(
    record: Mapping[str, Any], moved: Mapping[str, str], digest: Callable[[pathlib.Path], str] = sha256
) -> Findings:
    """Compare the inputs of a record with the files that are there now.

    Args:
      record: of a run.
      moved: see ``verify``.
      digest: returns the SHA-256 of a file.
    """
    changed, missing, same = [], [], 0
    for name, entry in record["inputs"].items():
        if entry is None:
            continue
        given = _OWNERS.get(name, name)
        if name == TEMPLATE and JINJA not in entry["files"]:
            given = name  # a file of the user's
        place = pathlib.Path(moved.get(given, entry["path"]))
        for file, recorded in entry["files"].items():
            path = place / file if is_folder(place) else place
            if not is_regular(path):
                missing.append(f"{name}: {path} is not at hand")
            elif digest(path) == recorded:
                same += 1
            else:
                changed.append(f"{name}: {path} has changed since")
    return Findings(tuple(changed), tuple(missing), same)


def _run_again(folder, file, record, moved, stages) -> Findings:
    settings = from_record(record["settings"], str(file))
    changes: dict[str, Any] = {name: moved[name] for name in PATHS if name in moved}
    changes["allow_unrelated"] = True  # what was written is compared, not judged
    settings = dataclasses.replace(settings, **changes)
    with tempfile.TemporaryDirectory() as place:
        again = pathlib.Path(place) / "again"
        if file.name == records.FILE:
            told = {"chosen": record.get("automatic"), "refined": record.get("refinement")}
            outputs = realign_files(settings, again, **told, stages=stages)["outputs"]
        else:
            outputs = identify_files(settings, again, stages=stages)["outputs"]
    asked = _OF_CHECK if CHECK in record else ()
    names = [name for name in record["outputs"] if not name.startswith(_TEMPORAL) and name not in asked]
    changed = [
        f"{name}: another run makes another one" for name in names if outputs.get(name) != record["outputs"][name]
    ]
    return Findings(tuple(changed), (), len(names) - len(changed))
