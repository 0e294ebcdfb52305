"""What each job asks for, and whether an existing output is what it asks for."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.fleet.folder import FleetFolder
from nlsr_jax.pipeline.settings import COMPUTING, Settings, with_absolute_paths
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.pipeline.verification import compare_inputs

_COMPUTING_OPTIONS = ("overwrite", "cache", "read", "mesh")
"""Arguments of ``realign_files`` that decide how an output is made and not which."""


class Task(NamedTuple):
    """A job as ``realign_files`` takes it.

    Attributes:
      output: name of the output.
      finetuned: the adapter, as the job names it.
      settings: of the run; None where the job's settings cannot be used.
      options: other arguments of ``realign_files``.
      error: why the job's settings cannot be used.
    """

    output: str
    finetuned: str
    settings: Settings | None
    options: Mapping[str, Any]
    error: InputError | None = None

    def asked(self) -> str:
        """Return a digest of all that decides the output, except for the content of the inputs."""
        if self.settings is None:
            return ""
        settings = dataclasses.asdict(with_absolute_paths(self.settings))
        for name in COMPUTING:
            del settings[name]
        options = {name: value for name, value in self.options.items() if name not in _COMPUTING_OPTIONS}
        text = json.dumps([settings, options], sort_keys=True, default=_described)
        return hashlib.sha256(text.encode()).hexdigest()


def _described(value: Any) -> Any:
    """Return a value that JSON can hold: the description of a check, or the text of any other object."""
    return value.describe() if hasattr(value, "describe") else repr(value)


def check_made(task: Task, folder: FleetFolder, shared: Shared) -> str | None:
    """Return why the existing output of a task is not what the task asks for; None if it is.

    Args:
      task: the task.
      folder: of the fleet.
      shared: keeps the digests of files.
    """
    record, state = folder.record(task.output), folder.state(task.output)
    if record is None or not isinstance(record.get("inputs"), dict):
        return "it has no record that can be read"
    if state is None:
        return "this fleet has not made it"
    if state.asked != task.asked() or state.before == record.get("seal"):
        return "it was made with other settings"
    found = compare_inputs(record, {}, shared.digest)
    if found.changed or found.missing:
        return (found.changed + found.missing)[0]
    return None
