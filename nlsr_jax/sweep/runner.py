"""Run each cell once, and share what cells have in common: alignments, fine-tunings, evidence and masks."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.automatic import choose_settings
from nlsr_jax.calibration.search import Automatic, SearchSettings
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.files.output import whole_directory, whole_file
from nlsr_jax.files.ownership import parquet_with
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.nlsr.realign import Realigned
from nlsr_jax.study.bench import Bench
from nlsr_jax.study.case import Aligned, Case, align, finetune, gain_batches, identification_rows, stage_key
from nlsr_jax.study.config import StudyConfig, describe_config
from nlsr_jax.study.defending import DEFENSES, Materials, defend, prepare
from nlsr_jax.study.exam import Scores, make_exam
from nlsr_jax.study.repairs import (
    RepairSettings,
    calibration_batches,
    changes,
    chosen_settings,
    gather_evidence,
    make_masks,
    make_reference,
    prepare_finetuned,
    repair,
)
from nlsr_jax.study.situations import SITUATIONS, lineage_of
from nlsr_jax.study.stages import Base
from nlsr_jax.study.workshop import Made, Workshop
from nlsr_jax.study.worlds import World
from nlsr_jax.sweep.cells import AUTOMATIC, OWN, REFINED, REQUESTS, SCORES, Cell, cell_digest, cell_fields
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.training.identity import digest
from nlsr_jax.types import Masks

ADAPTERS = "adapters"
_KEPT = 4
VERSION = 4
"""Version of the rows' meaning: raised when the same cell would give a different row."""
foreign_rows = parquet_with("cell", "settings", "topics")
_AMPLIFICATION, _BASIS = ("beta", "amplification_space", "rank"), ("basis", "turned")


def describe_study(config: StudyConfig) -> dict[str, Any]:
    """Return what determines a row, beside its cell and its base."""
    settings = describe_config(config)
    for name in ("name", "recommended", "poison_ratio", "pretraining"):
        del settings[name]  # for other programs, or about how bases were made
    return {"version": VERSION, **settings}


class CellRunner:
    """Makes and evaluates the models of cells.

    Shared parts are computed once: adapters are kept in the store's folder, evidence and masks in memory.

    Args:
      places: returns base and world of an architecture.
      config: configuration of the study.
      store: the store of rows and adapters.
      own: the architecture of the study itself.
      show: show the progress of training.
    """

    def __init__(
        self,
        places: Callable[[str], tuple[Base, World]],
        config: StudyConfig,
        store: CellStore,
        *,
        own: str = "llama",
        show: bool = False,
    ):
        self.own = own
        self.config, self.store, self.show = config, store, show
        self._place = functools.cache(places)
        self.study = functools.cache(self._study)
        self.alignment = functools.lru_cache(_KEPT)(self._alignment)
        self.tuned = functools.lru_cache(_KEPT)(self._tuned)
        self.evidence = functools.lru_cache(_KEPT)(self._evidence)
        self.refined = functools.lru_cache(_KEPT)(self._refined)
        self.masks = functools.lru_cache(_KEPT)(self._masks)
        self.bench = functools.lru_cache(_KEPT)(self._bench)

    def base(self, architecture: str) -> Base:
        """Return the base of an architecture."""
        return self._place(architecture)[0]

    def world(self, architecture: str) -> World:
        """Return the world in which the base of an architecture is evaluated."""
        return self._place(architecture)[1]

    def _study(self, architecture: str) -> str:
        """Return a digest of everything that determines a row, beside its cell."""
        base = self.base(architecture)
        described = [describe_study(self.config), str(base.model.config), digest(base.params)]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def name(self, cell: Cell) -> str:
        """Return the name of a cell's row."""
        cell = self.whole(cell)
        return cell_digest(cell, self.study(cell.architecture))

    def whole(self, cell: Cell) -> Cell:
        """Return the cell with its architecture filled in."""
        return dataclasses.replace(cell, architecture=self.own) if cell.architecture == OWN else cell

    def run(self, cell: Cell) -> dict[str, Any]:
        """Make and evaluate a cell's model; its row depends on nothing else."""
        cell = self.whole(cell)
        outcome = self.bench_of(cell).outcome(cell.method, self.adapters(cell), 0.0)
        scores = {name: outcome.row[name] for name in SCORES}
        return {"cell": self.name(cell), **cell_fields(cell), **scores, "topics": _mean_topics(outcome.scores)}

    def bench_of(self, cell: Cell) -> Bench:
        """Return the bench that evaluates a cell's models."""
        cell = self.whole(cell)
        return self.bench(cell.architecture, cell.case, cell.requests)

    def adapters(self, cell: Cell) -> list[Adapter | None]:
        """Return the adapters of a cell, one per draw; None is the base alone."""
        cell = self.whole(cell)
        if cell.method == "unaligned":
            return [None]
        if cell.method == "aligned":
            return [self.alignment(cell.architecture, cell.seed, cell.objective).aligned]
        if cell.method == "finetuned":
            return [self.tuned(cell.architecture, cell.case, cell.objective)]
        if cell.method == AUTOMATIC:
            return [self._automatic(cell)]
        if cell.method == REFINED:
            return [self.refined(cell.architecture, cell.case, cell.objective)]
        if cell.method == "nlsr":
            return [result.adapter for result in self.realigned(cell)]
        return [self._defended(cell)]

    def realigned(self, cell: Cell) -> list[Realigned]:
        """Return the realignments of a cell of ``nlsr``, one per draw."""
        cell = self.whole(cell)
        settings = _changed(self.config.published, cell)
        reference = self.reference(cell.architecture, cell.seed, cell.objective, settings)
        finetuned = self._prepared(cell.architecture, cell.case, cell.objective, settings)
        chosen_by = None
        if cell.identified_on is not None:
            chosen_by = self._prepared(cell.architecture, _source(cell), cell.objective, settings)
        key = stage_key(cell.seed, "realign")
        return repair(key, finetuned, reference, self.identified(cell), settings, chosen_by)

    def automatic(self, cell: Cell) -> Automatic:
        """Choose the settings of a cell with the calibration rows of its seed; see ``choose_settings``."""
        cell = self.whole(cell)
        base = self.base(cell.architecture)
        alignment = self.alignment(cell.architecture, cell.seed, cell.objective)
        finetuned = self.tuned(cell.architecture, cell.case, cell.objective)
        batches = gain_batches(base, self.world(cell.architecture), self.config, cell.seed)
        settings: dict[str, Any] = dict(cell.settings)
        adapters = (finetuned, alignment.aligned, alignment.weak)
        return choose_settings(base.model, base.params, *adapters, batches, settings=SearchSettings(**settings))

    def _automatic(self, cell: Cell) -> Adapter:
        """Realign with the chosen settings and all calibration rows."""
        settings = changes(chosen_settings(self.automatic(cell)), self.config.published)
        (result,) = self.realigned(
            dataclasses.replace(cell, method="nlsr", settings=tuple(sorted(settings.items())))
        )
        return result.adapter

    def _refined(self, architecture: str, case: Case, objective: str) -> Adapter:
        """Repair with the recommended settings of a lineage and a refined share of entries."""
        base, world = self._place(architecture)
        alignment = self.alignment(architecture, case.seed, objective)
        tuned = Made(base, self.tuned(architecture, case, objective), 0.0)
        workshop = Workshop(base, world, self.config, alignment.aligned, {}, lineage=alignment)
        settings = SITUATIONS["lineage"].recommended
        holding = lineage_of(workshop, case, alignment, tuned)
        adapter = holding.refined(settings.beta, round(1 - settings.sparsity, 6))[0].adapter
        assert adapter is not None
        return adapter

    def identified(self, cell: Cell) -> Masks:
        """Return the masks of a cell of ``nlsr``; the case matters if the method uses the fine-tuned adapter."""
        cell = self.whole(cell)
        settings = _changed(self.config.published, cell)
        identification = dataclasses.replace(RepairSettings(), **_identification(settings))
        needed = _source(cell) if settings.needs_finetuned else None
        return self.masks(cell.architecture, cell.seed, cell.objective, needed, identification)

    def _prepared(self, architecture: str, case: Case, objective: str, settings: RepairSettings) -> Adapter:
        """Return the fine-tuned adapter in the basis of the settings."""
        finetuned = self.tuned(architecture, case, objective)
        aligned = self.alignment(architecture, case.seed, objective).aligned
        return prepare_finetuned(stage_key(case.seed, "realign"), finetuned, aligned, settings)

    def reference(self, architecture: str, seed: int, objective: str, settings: RepairSettings) -> Adapter:
        """Return the reference adapter for some settings."""
        alignment = self.alignment(architecture, seed, objective)
        return make_reference(alignment.aligned, alignment.weak, settings)

    def _defended(self, cell: Cell) -> Adapter:
        """Return the adapter of a defense; the result of fine-tuning is stored, later repairs are not."""
        finetuned = self.tuned(cell.architecture, cell.case, cell.objective)
        alignment = self.alignment(cell.architecture, cell.seed, cell.objective)
        base, world = self._place(cell.architecture)
        materials = Materials(base, world, self.config, cell.case, alignment, cell.objective)
        settings: dict[str, Any] = dict(cell.settings)
        when = DEFENSES[cell.method].when
        if when == "after":
            return defend(cell.method, materials, finetuned, **settings)
        told = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{cell.method}-{told}-{cell.objective}"

        def start() -> Adapter:
            return prepare(cell.method, materials, **settings)

        def defended() -> Adapter:
            begun = None
            if when == "before":
                begun = self._through(cell.architecture, f"{name}-{cell.seed}", start)
            return defend(cell.method, materials, finetuned, start=begun, **settings)

        return self._through(cell.architecture, f"{name}-{_words(cell.case)}", defended)

    def _bench(self, architecture: str, case: Case, requests: str) -> Bench:
        asked, other = self.config.exam, requests != REQUESTS[0]
        world = self.world(architecture)
        exam = make_exam(
            world, case.task, forbidden=asked.forbidden, benign=asked.benign, rows=asked.rows, other=other
        )
        return Bench(self.base(architecture), world, self.config, case, exam)

    def _alignment(self, architecture: str, seed: int, objective: str) -> Aligned:
        base, world = self._place(architecture)

        def made() -> dict[str, Adapter]:
            found = align(base, world, self.config, seed, objective, show=self.show)
            return {"weak": found.weak, "aligned": found.aligned}

        kept = self._made(architecture, f"align-{objective}-{seed}", made)
        weak, aligned = (load_adapter(kept / part, base.model.config) for part in ("weak", "aligned"))
        return Aligned(weak, aligned, seconds=0.0)

    def _tuned(self, architecture: str, case: Case, objective: str) -> Adapter:
        def made() -> Adapter:
            aligned = self.alignment(architecture, case.seed, objective).aligned
            return finetune(
                self.base(architecture), self.world(architecture), self.config, aligned, case, show=self.show
            ).adapter

        return self._through(architecture, f"finetune-{objective}-{_words(case)}", made)

    def _evidence(
        self,
        architecture: str,
        seed: int,
        objective: str,
        case: Case | None,
        method: str,
        settings: RepairSettings,
    ):
        base = self.base(architecture)
        rows = identification_rows(self.world(architecture), self.config, seed, method)
        batches = calibration_batches(base, rows, 50, self.config.sft.training.max_length)
        finetuned = None if case is None else self._prepared(architecture, case, objective, settings)
        reference = self.reference(architecture, seed, objective, settings)
        return gather_evidence(base, reference, batches, method, finetuned)

    def _masks(self, architecture: str, seed: int, objective: str, case: Case | None, settings: RepairSettings):
        kept: dict[str, Any] = {name: getattr(settings, name) for name in (*_AMPLIFICATION, *_BASIS)}
        adapters_only = dataclasses.replace(RepairSettings(), **kept)
        evidence = self.evidence(architecture, seed, objective, case, settings.method, adapters_only)
        reference = self.reference(architecture, seed, objective, settings)
        finetuned = None if case is None else self._prepared(architecture, case, objective, settings)
        return make_masks(stage_key(seed, "realign"), reference, evidence, settings, finetuned)

    def _through(self, architecture: str, name: str, make: Callable[[], Adapter]) -> Adapter:
        """Return the adapter stored under a name; make it if it is missing."""
        kept = self._made(architecture, name, lambda: {"adapter": make()})
        return load_adapter(kept / "adapter", self.base(architecture).model.config)

    def _made(self, architecture: str, name: str, make: Callable[[], dict[str, Adapter]]) -> pathlib.Path:
        """Return the folder of shared adapters; only one process makes it."""
        kept = self.store.path / ADAPTERS / self.study(architecture)[:12] / name
        with self.store.claims.claim(str(kept.relative_to(self.store.path))):
            if not kept.exists():
                self._keep(kept, make())
        return kept

    def _keep(self, path: pathlib.Path, adapters: dict[str, Adapter]) -> None:
        try:
            with whole_directory(path) as folder:
                for name, adapter in adapters.items():
                    save_adapter(adapter, folder / name)
        except InputError:
            if not path.exists():  # else another process has just made the same, byte for byte
                raise


def _source(cell: Cell) -> Case:
    """Return the case on whose fine-tuned adapter entries and modules are chosen."""
    return cell.case if cell.identified_on is None else cell.case._replace(task=cell.identified_on)


def _words(case: Case) -> str:
    return f"{case.task}-{case.poison_ratio!r}-{case.seed}"


def _mean_topics(scores: Sequence[Scores]) -> dict[str, float]:
    """Return HS by topic, averaged over the draws."""
    return {topic: float(np.mean([one.hs_by_topic[topic] for one in scores])) for topic in scores[0].hs_by_topic}


def _identification(settings: RepairSettings) -> dict[str, Any]:
    """Return the settings that masks depend on."""
    basis = _BASIS if settings.needs_finetuned else ()
    names = (*_AMPLIFICATION, "method", "sparsity", "granularity", *basis)
    return {name: getattr(settings, name) for name in names}


def _changed(settings: RepairSettings, cell: Cell) -> RepairSettings:
    """Return the settings with a cell's changes."""
    changes: dict[str, Any] = dict(cell.settings)
    return dataclasses.replace(settings, **changes)


def order_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Return the distinct cells in an order that groups those that share most."""

    def shared(cell: Cell):
        identification = (
            json.dumps(_identification(_changed(RepairSettings(), cell))) if cell.method == "nlsr" else ""
        )
        where = (cell.architecture, cell.seed, cell.objective, _order(cell.task), cell.poison_ratio)
        return *where, cell.requests, cell.method, identification, str(cell.settings), str(cell.identified_on)

    return sorted(dict.fromkeys(cells), key=shared)


def read_cells(runner: CellRunner, cells: Sequence[Cell]) -> list[dict]:
    """Return the rows of cells in their order.

    Raises:
      InputError: if a cell has no row.
    """
    rows = runner.store.rows()
    missing = [cell for cell in cells if runner.name(cell) not in rows]
    if missing:
        raise InputError(
            f"{runner.store.path}: {len(missing)} of {len(cells)} cells have no row yet; run the sweep"
        )
    return [rows[runner.name(cell)] for cell in cells]


def export_parquet(rows: Sequence[dict], path: str | os.PathLike) -> None:
    """Write rows as a Parquet table, replacing an existing one; settings and topics become JSON text.

    Raises:
      InputError: if the file cannot be written, or is another kind of file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [{**row, "settings": json.dumps(row["settings"]), "topics": json.dumps(row["topics"])} for row in rows]
    with whole_file(path, overwrite=True, foreign=foreign_rows) as file:
        pq.write_table(pa.Table.from_pylist(flat), file)


def shares(cells: Sequence[Cell], count: int) -> Iterator[list[Cell]]:
    """Split cells into ``count`` lists, keeping cells of the same fine-tuning together."""
    groups: dict[Any, list[Cell]] = collections.defaultdict(list)
    for cell in order_cells(cells):
        groups[cell.architecture, cell.case, cell.objective].append(cell)
    parts: list[list[Cell]] = [[] for _ in range(count)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(parts, key=len).extend(group)
    yield from parts


def _order(task: str) -> tuple[int, str]:
    """Return the place of a task: the known ones first, tasks of the user's by name."""
    return (TASKS.index(task), "") if task in TASKS else (len(TASKS), task)
