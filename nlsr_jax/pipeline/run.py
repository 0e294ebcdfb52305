"""What the stages of one run share: progress, digests, notes, devices and the key."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import jax
from jax.sharding import Mesh

from nlsr_jax.errors import with_flags
from nlsr_jax.formats.record import Digests
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.progress import Stages


class Notes:
    """What a user should know of a run: kept for the record, and each note said once.

    Args:
      stages: says them.

    Attributes:
      kept: the notes in the order of the record.
    """

    def __init__(self, stages: Stages):
        self._stages, self._said = stages, set[str]()
        self.kept: list[str] = []

    def add(self, notes: Iterable[str]) -> None:
        """Keep some notes, which ``say`` says later."""
        self.kept += map(with_flags, notes)

    def warn(self, doubts: Iterable[str]) -> None:
        """Say some notes as warnings now, and keep them before all others."""
        doubts = list(map(with_flags, doubts))
        for doubt in doubts:
            self._stages.say(f"warning: {doubt}")
        self._said |= set(doubts)
        self.kept[:0] = doubts

    def say(self, notes: Iterable[str] | None = None) -> None:
        """Say some of the notes, or all that have not been said."""
        notes = [note for note in self.kept if note not in self._said] if notes is None else map(with_flags, notes)
        for note in notes:
            self._stages.say(f"note: {note}")
            self._said.add(note)


@dataclasses.dataclass(frozen=True)
class Run:
    """The context of one run; a stage takes it beside its own part of the settings.

    Attributes:
      stages: reports progress.
      digests: of the inputs; whoever opens one adds it.
      notes: what a user should know.
      key: PRNG key of the run.
      mesh: what the base is laid over; None for one device.
      recorded: the inputs of the record that the run repeats; None for a run of its own. What a run of its own
        refuses of adapters without a common lineage, one that repeats a record notes.
      cache: folder of directions that were factored before; None to factor them anew.
      scratch: folder for what memory does not take; None for the system's temporary folder.
      shared: what other runs of this process have made before.
    """

    stages: Stages
    digests: Digests
    notes: Notes
    key: jax.Array
    mesh: Mesh | None = None
    recorded: dict | None = None
    cache: str | None = None
    scratch: pathlib.Path | None = None
    shared: Shared = dataclasses.field(default_factory=Shared)


@contextlib.contextmanager
def start(
    seed: int,
    stages: Stages,
    *,
    mesh: Mesh | None = None,
    recorded: dict | None = None,
    cache: str | None = None,
    output: pathlib.Path | None = None,
    shared: Shared | None = None,
) -> Iterator[Run]:
    """Yield the context of a run; its thread of digests ends with the block.

    Args:
      seed: of the key.
      stages, mesh, recorded, cache: see ``Run``.
      output: the folder to be; what memory does not take goes beside it.
      shared: what other runs of this process have made; None for a run of its own.
    """
    shared = shared or Shared()
    digests = Digests(shared.digest)
    scratch = None if output is None else next(one for one in output.absolute().parents if one.is_dir())
    try:
        yield Run(stages, digests, Notes(stages), jax.random.key(seed), mesh, recorded, cache, scratch, shared)
    finally:
        digests.close()
