"""The adapters of a run, opened and checked, and read a few layers at a time.

No adapter is ever in memory as a whole, unless a method needs it: factors are read when their turn comes and let go
of again.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, check_same_structure
from nlsr_jax.errors import InputError, UnsupportedModel
from nlsr_jax.files.paths import exists, expand, is_folder
from nlsr_jax.formats.adapter_folder import CONFIG
from nlsr_jax.formats.peft import AdapterFile, PeftLayout, open_adapter
from nlsr_jax.formats.peft_carried import Carried
from nlsr_jax.modules import MODULES
from nlsr_jax.nlsr.basis import common_basis
from nlsr_jax.pipeline.advice import FRESH_ADVICE, TURNED_ADVICE
from nlsr_jax.pipeline.chunks import Chunk, piece_of
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings, SourceSettings

ADAPTERS = ("aligned", "weak", "finetuned")


class AdapterSource(Protocol):
    """What the pipeline asks of an adapter: an ``AdapterFile``, or one that is made from such files."""

    path: pathlib.Path
    layout: PeftLayout
    carried: Carried
    notes: list[str]

    def notes_of_source(self) -> list[str]: ...
    def check_layers(self, num_layers: int, modules: Sequence[str] = MODULES) -> None: ...
    def shapes(self) -> Adapter: ...
    def factors(self, module: str, rows: slice = ...) -> dict[str, np.ndarray]: ...
    def load(self) -> Adapter: ...


@dataclasses.dataclass(frozen=True)
class Sources:
    """The open adapter files of a run.

    Attributes:
      aligned: the aligned adapter.
      weak: the weak adapter, where there is one.
      finetuned: the fine-tuned adapter; None where only masks are made.
      basis: of the rank axis that the fine-tuned adapter is read in; see ``common_basis``.
      fixed: leading places of the rank axis, by module, that are no candidates; see ``nlsr_jax.identify``.
    """

    aligned: AdapterSource
    weak: AdapterSource | None = None
    finetuned: AdapterSource | None = None
    basis: str = "as_is"
    fixed: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def target(self) -> AdapterSource:
        """The fine-tuned adapter's file."""
        assert self.finetuned is not None
        return self.finetuned

    def named(self) -> Iterator[tuple[str, AdapterSource]]:
        """Yield the adapters that there are, with their names."""
        for name in ADAPTERS:
            source = getattr(self, name)
            if source is not None:
                yield name, source

    def read_finetuned(self, chunk: Chunk) -> Adapter:
        """Read the layers of one chunk of the fine-tuned adapter, in the basis of the run."""
        finetuned = read_piece(self.target, chunk)
        if self.basis == "as_is":
            return finetuned
        return jax.device_get(common_basis(finetuned, read_piece(self.aligned, chunk), method=self.basis))

    def whole_finetuned(self) -> Adapter:
        """Read the whole fine-tuned adapter, in the basis of the run."""
        finetuned = self.target.load()
        if self.basis == "as_is":
            return finetuned
        return common_basis(finetuned, self.aligned.load(), method=self.basis)


def read_piece(file: AdapterSource, chunk: Chunk) -> Adapter:
    """Read the layers of one chunk as an adapter of their own."""
    return piece_of(file.shapes(), chunk, file.factors(chunk.module, chunk.rows))


def open_sources(settings: Settings, run: Run) -> Sources:
    """Open the adapters, check that their structures fit each other, and start to digest them.

    Raises:
      InputError: an adapter that cannot be used, or that does not fit the others.
    """
    paths = {name: path for name in ADAPTERS if (path := getattr(settings, name))}
    found: dict[str, AdapterFile] = {}
    for name, path in paths.items():
        found[name] = open_named(name, path, run)
    aligned = found["aligned"].shapes()
    check_adapter(aligned, "aligned")
    for name, rank in (("finetuned", True), ("weak", settings.amplification_space == "factors")):
        if name in found:
            names = (f"aligned ({settings.aligned})", f"{name} ({paths[name]})")
            try:
                check_same_structure(aligned, found[name].shapes(), names, rank=rank)
            except InputError as error:
                lifts = have_same_modules(aligned, found[name].shapes())
                advice = [TURNED_ADVICE] * lifts + [FRESH_ADVICE] * (name == "finetuned")
                raise InputError(". ".join([error.marked, *advice])) from None
    return Sources(found["aligned"], found.get("weak"), found.get("finetuned"), settings.basis)


def open_named(name: str, path: str, run: Run) -> AdapterFile:
    """Open an adapter of a run by its name, and start to digest it.

    Raises:
      InputError: an adapter that cannot be used; where ``aligned`` holds none, with what to do instead.
    """
    try:
        file = open_adapter(path)
    except InputError as error:
        folder = expand(path)
        if name != "aligned" or not is_folder(folder) or exists(folder / CONFIG):
            raise
        raise InputError(f"{error.marked}. {FRESH_ADVICE}") from None
    run.digests.add(name, path, [file.path / part for part in file.files])
    return file


def have_same_modules(first: Adapter, second: Adapter) -> bool:
    """Say whether two adapters adapt the same modules and layers of one base, whatever their ranks."""
    try:
        check_same_structure(first, second, ("first", "second"), rank=False)
    except InputError:
        return False
    return True


def source_notes(sources: Sources) -> list[str]:
    """Return what a user should know of the adapters; what the fine-tuned one carries alone is written."""
    notes = []
    for _, source in sources.named():
        notes += source.notes if source is sources.finetuned else source.notes_of_source()
    return notes


def check_base(sources: Sources, settings: SourceSettings) -> None:
    """Check, before anything costly, that the base can run with the adapters; nothing where none is needed.

    Raises:
      InputError: an adapter of modules, layers or shapes that the base does not have.
    """
    if not settings.needs_base:
        return
    from nlsr_jax.architecture.fit import WITHOUT_FORWARD, check_adapter_fits, check_modules
    from nlsr_jax.formats.carried_fit import check_carried_fits
    from nlsr_jax.formats.hugging_face import read_config, resolve

    assert settings.base is not None
    given = [(f"{name} ({path})", file) for name, file in sources.named() if (path := getattr(settings, name))]
    for name, file in given:
        check_modules(file.shapes(), name)
    try:
        config = read_config(resolve(settings.base))
    except UnsupportedModel as error:
        raise InputError(f"{error.marked}. {WITHOUT_FORWARD}") from None
    for name, file in given:
        check_adapter_fits(file.shapes(), config, name)
        file.check_layers(config.num_layers, tuple(config.adaptable()))
        check_carried_fits(file.carried, config)
