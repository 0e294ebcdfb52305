"""The record of a run as an in-toto statement: digests of its outputs, of its inputs, and its settings.

Source: in-toto Statement v1, SLSA Provenance v1, and package URLs (purl) for models and data sets of the hub.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nlsr_jax.formats import record as records
from nlsr_jax.formats.hub import HubName, is_pinned, parse_hub_name, snapshot_name

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:nlsr-jax:{kind}:v1"
"""What the parameters mean: the settings of a realignment or an identification."""
_DATA = ("calibration", "harmless", "keep")
"""Inputs that are data sets; the others are models and adapters."""


def make_statement(record: Mapping[str, Any], name: str, digest: str) -> dict[str, Any]:
    """Return the statement of an output.

    Args:
      record: of the run.
      name: of the record's file, which is one of the outputs.
      digest: SHA-256 of that file.

    Returns:
      A statement whose subjects are all files of the output, with a provenance as its predicate. It depends on
      nothing but the arguments.
    """
    outputs = {**record["outputs"], name: digest}
    kind = str(record["format"]).rpartition(".")[2]
    parameters = {"preset": record["preset"]} if "preset" in record else {}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file, "digest": {"sha256": outputs[file]}} for file in sorted(outputs)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE.format(kind=kind),
                "externalParameters": {**parameters, "settings": record["settings"]},
                "internalParameters": {"key": record.get("key")},
                "resolvedDependencies": [*_dependencies(record)],
            },
            "runDetails": {
                "builder": {"id": "urn:nlsr-jax:nlsr", "version": record.get("versions", {})},
                "metadata": {"invocationId": f"sha256:{record.get('seal')}"},
            },
        },
    }


def dump(statement: Mapping[str, Any]) -> bytes:
    """Return the bytes of a statement, which are what is signed."""
    return records.dump(dict(statement)).encode()


def _dependencies(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a run has read: the pinned name of each input of the hub, then the digests of its files."""
    for name, entry in record["inputs"].items():
        if entry is None:
            continue
        hub = _hub_name(name, entry["path"])
        uri = None if hub is None else _purl(hub, name in _DATA)
        if hub is not None and is_pinned(hub):
            yield {"name": name, "uri": uri, "digest": {"gitCommit": hub.revision}}
        elif hub is not None:
            yield {"name": name, "uri": uri}
        for file, digest in entry["files"].items():
            place = {} if uri is None else {"uri": f"{uri}#{file}"}
            yield {"name": f"{name}/{file}", **place, "digest": {"sha256": digest}}
    if record.get("commit"):
        yield {"name": "nlsr_jax", "digest": {"gitCommit": record["commit"]}}


def unpinned(record: Mapping[str, Any]) -> list[str]:
    """Return the inputs for which a record has neither digests nor a revision, each as ``input: path``."""
    return [
        f"{name}: {entry['path']}"
        for name, entry in record["inputs"].items()
        if entry is not None and name != "companions" and not entry["files"] and not _is_pinned(name, entry["path"])
    ]


def _is_pinned(name: str, path: str) -> bool:
    hub = _hub_name(name, path)
    return hub is not None and is_pinned(hub)


def _hub_name(name: str, path: str) -> HubName | None:
    """Return the hub name of an input: that of a snapshot in the cache, or of a data set."""
    found = snapshot_name(path)
    if found is None and name in _DATA:
        found = parse_hub_name(path)
        found = found if found is not None and "/" in found.id else None
    return found


def _purl(name: HubName, data_set: bool) -> str:
    version = "" if name.revision is None else f"@{name.revision}"
    return f"pkg:huggingface/{'datasets/' if data_set else ''}{name.id}{version}"


def explain_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Say in a few words where a statement is not the one that the output's record makes.

    Args:
      found: as it was read.
      expected: from ``make_statement``.
    """
    digests = [
        {one.get("name"): one.get("digest") for one in statement.get("subject") or () if isinstance(one, dict)}
        for statement in (found, expected)
    ]
    for name in sorted({*map(str, digests[0]), *map(str, digests[1])}):
        if digests[0].get(name) != digests[1].get(name):
            return f"its digest of {name} is not the one of this output"
    for field in ("_type", "predicateType", "predicate"):
        if found.get(field) != expected[field]:
            return f"its {field} is not what the record says"
    return "its text is not what was written"
