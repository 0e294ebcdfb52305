"""What a realignment gives to a check of its output, before the output is in its place."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError, argument
from nlsr_jax.pipeline.evidence import CalibrationData
from nlsr_jax.pipeline.run import Run

Loaded = tuple[Any, Any, Adapter | None]
"""Model, parameters, and the adapter to apply; see ``load_model``."""
CHECK = "check"
"""Name of the description of a check in a record."""


class Candidates(NamedTuple):
    """The two models of a realignment, loaded when they are asked for.

    Attributes:
      base: directory or hub id of the base.
      written: SHA-256 of what has been written, by file name.
      repaired: loads what was written.
      finetuned: loads what was repaired.
      release: lets go of what the run itself holds of them, to make room for a judge.
    """

    base: str
    written: Mapping[str, str]
    repaired: Callable[[], Loaded]
    finetuned: Callable[[], Loaded]
    release: Callable[[], None]


class OutputCheck(Protocol):
    """Checks the output of a realignment; see ``nlsr_jax.gate.attached``."""

    def open(self, base: str, run: Run) -> None:
        """Read what is asked, before anything costly.

        Raises:
          InputError: what cannot be used.
        """
        ...

    def run(self, folder: pathlib.Path, models: Candidates, run: Run) -> dict[str, Any]:
        """Ask both models, write the check into the folder and return what the record says of it.

        Raises:
          InputError: models that cannot be asked.
          NotPassed: the output is not to be published.
        """
        ...


class NotPassed(Exception):
    """An output that was to be published only if it passes its check, and does not.

    Attributes:
      summary: the check in Markdown.
      status: of the command.
    """

    def __init__(self, summary: str, status: int):
        super().__init__("the output does not pass its check and was not written")
        self.summary, self.status = summary, status


def open_check(check: OutputCheck | None, base: str | None, run: Run, *, streams: bool = False) -> None:
    """Open the check of a run, where there is one.

    Args:
      check: of the output.
      base: of the run.
      run: the context.
      streams: whether the base is read layer by layer.

    Raises:
      InputError: no base, or a run that cannot ask a model.
    """
    if check is None:
        return
    import jax

    if base is None:
        raise InputError(f"{argument('base')} is missing; {argument('check')} asks the model")
    if streams:
        raise InputError(
            f"{argument('check')} asks the model, and with {argument('stream')} the base is read layer by layer: "
            "leave one of them out"
        )
    if jax.process_count() > 1:
        raise InputError(f"{argument('check')} runs in one process; check the output with nlsr check")
    check.open(base, run)


def adapters_of(
    folder: pathlib.Path,
    finetuned: str | os.PathLike,
    base: str,
    data: CalibrationData,
    written: Mapping[str, str],
) -> Candidates:
    """Return the models of a realigned adapter, over the base of the run.

    Args:
      folder: with the written adapter.
      finetuned: folder of the fine-tuned adapter.
      base: directory or hub id of the base.
      data: holds the base of the run.
      written: SHA-256 of what has been written, by file name.
    """
    from nlsr_jax.formats.peft import open_adapter

    def load(place: str | os.PathLike) -> Loaded:
        file = open_adapter(place)
        return (*data.base_with(file), file.load())

    return Candidates(base, written, lambda: load(folder), lambda: load(finetuned), data.release)
