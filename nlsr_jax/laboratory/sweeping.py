"""Run cells, each once, sharing what they have in common: alignments, fine-tunings, evidence and masks."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.formats.output import whole_directory
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.laboratory.cells import SCORES, Cell, CellStore, cell_digest, cell_fields
from nlsr_jax.laboratory.config import StudyConfig
from nlsr_jax.laboratory.defending import Materials, defend
from nlsr_jax.laboratory.evaluation import make_exam
from nlsr_jax.laboratory.repairs import (
    RepairSettings,
    calibration_batches,
    gather_evidence,
    make_masks,
    make_reference,
    repair,
)
from nlsr_jax.laboratory.stages import Base
from nlsr_jax.laboratory.study import Aligned, Bench, Case, Tuned, align, calibration_rows, finetune, stage_key
from nlsr_jax.laboratory.worlds import World
from nlsr_jax.nlsr.identify import NEEDS_FINETUNED
from nlsr_jax.training.identity import digest

ADAPTERS = "adapters"
_KEPT = 4


def describe_study(base: Base, config: StudyConfig) -> dict[str, Any]:
    """Return what decides a row beside its cell: the config and the base."""
    settings = dataclasses.asdict(config)
    for name in ("recommended", "poison_ratio", "base"):
        del settings[name]  # of other programs, and where the base was read from
    return {"config": settings, "base": digest(base.params)}


class CellRunner:
    """Makes and examines the models of cells.

    What cells share is computed once: adapters are kept in the store's folder, evidence and masks in memory.

    Args:
      base, world, config: of the study.
      store: where rows and adapters are kept.
      show: show the progress of training.
    """

    def __init__(self, base: Base, world: World, config: StudyConfig, store: CellStore, *, show: bool = False):
        self.base, self.world, self.config, self.store, self.show = base, world, config, store, show
        text = json.dumps(describe_study(base, config), sort_keys=True)
        self.study = hashlib.sha256(text.encode()).hexdigest()
        self.alignment = functools.lru_cache(_KEPT)(self._alignment)
        self.tuned = functools.lru_cache(_KEPT)(self._tuned)
        self.evidence = functools.lru_cache(_KEPT)(self._evidence)
        self.masks = functools.lru_cache(_KEPT)(self._masks)
        self.bench = functools.lru_cache(_KEPT)(self._bench)

    def name(self, cell: Cell) -> str:
        """Return the name of a cell's row."""
        return cell_digest(cell, self.study)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Make and examine a cell's model; its row depends on nothing else."""
        outcome = self.bench(cell.case).outcome(cell.method, self._adapters(cell), 0.0)
        scores = {name: outcome.row[name] for name in SCORES}
        return {"cell": self.name(cell), **cell_fields(cell), **scores, "topics": outcome.scores[0].hs_by_topic}

    def _adapters(self, cell: Cell) -> list[Adapter | None]:
        if cell.method == "unaligned":
            return [None]
        alignment = self.alignment(cell.seed, cell.objective)
        if cell.method == "aligned":
            return [alignment.aligned]
        finetuned = self.tuned(cell.case, cell.objective)
        if cell.method == "finetuned":
            return [finetuned]
        if cell.method == "nlsr":
            return [*self._realigned(cell, finetuned)]
        materials = Materials(self.base, self.world, self.config, cell.case, alignment)
        return [defend(cell.method, materials, finetuned, **dict(cell.settings))]

    def _realigned(self, cell: Cell, finetuned: Adapter) -> list[Adapter]:
        settings = _changed(self.config.published, cell)
        reference = self._reference(cell.seed, cell.objective, settings)
        identification = dataclasses.replace(RepairSettings(), **_identification(settings))
        case = cell.case if settings.method in NEEDS_FINETUNED else None
        masks = self.masks(cell.seed, cell.objective, case, identification)
        results = repair(stage_key(cell.seed, "realign"), finetuned, reference, masks, settings)
        return [result.adapter for result in results]

    def _reference(self, seed, objective, settings):
        alignment = self.alignment(seed, objective)
        return make_reference(alignment.aligned, alignment.weak, settings)

    def _bench(self, case: Case) -> Bench:
        asked = self.config.exam
        exam = make_exam(self.world, case.task, forbidden=asked.forbidden, benign=asked.benign, rows=asked.rows)
        return Bench(self.base, self.world, self.config, case, exam)

    def _alignment(self, seed: int, objective: str) -> Aligned:
        kept = self._kept(f"align-{objective}-{seed}")
        if not kept.exists():
            made = align(self.base, self.world, self.config, seed, objective, show=self.show)
            self._keep(kept, {"weak": made.weak, "aligned": made.aligned})
        weak, aligned = (load_adapter(kept / part, self.base.model.config) for part in ("weak", "aligned"))
        return Aligned(weak, aligned, seconds=0.0)

    def _tuned(self, case: Case, objective: str) -> Adapter:
        kept = self._kept(f"finetune-{objective}-{case.task}-{case.poison_ratio:g}-{case.seed}")
        if not kept.exists():
            aligned = self.alignment(case.seed, objective).aligned
            made: Tuned = finetune(self.base, self.world, self.config, aligned, case, show=self.show)
            self._keep(kept, {"finetuned": made.adapter})
        return load_adapter(kept / "finetuned", self.base.model.config)

    def _evidence(self, seed: int, objective: str, case: Case | None, method: str, settings: RepairSettings):
        rows = calibration_rows(self.world, self.config, seed)
        batches = calibration_batches(self.base, rows, 50, self.config.sft.training.max_length)
        finetuned = None if case is None else self.tuned(case, objective)
        return gather_evidence(self.base, self._reference(seed, objective, settings), batches, method, finetuned)

    def _masks(self, seed: int, objective: str, case: Case | None, settings: RepairSettings):
        amplification: dict[str, Any] = {"beta": settings.beta, "amplification_space": settings.amplification_space}
        reference_only = dataclasses.replace(RepairSettings(), **amplification)
        evidence = self.evidence(seed, objective, case, settings.method, reference_only)
        reference = self._reference(seed, objective, settings)
        finetuned = None if case is None else self.tuned(case, objective)
        return make_masks(stage_key(seed, "realign"), reference, evidence, settings, finetuned)

    def _kept(self, name: str) -> pathlib.Path:
        return self.store.path / ADAPTERS / self.study[:12] / name

    def _keep(self, path: pathlib.Path, adapters: dict[str, Adapter]) -> None:
        try:
            with whole_directory(path) as folder:
                for name, adapter in adapters.items():
                    save_adapter(adapter, folder / name)
        except InputError:
            if not path.exists():  # else another process has made the same meanwhile, to the byte
                raise


def _identification(settings: RepairSettings) -> dict[str, Any]:
    """The settings that masks depend on."""
    names = ("beta", "amplification_space", "method", "sparsity", "granularity")
    return {name: getattr(settings, name) for name in names}


def _changed(settings: RepairSettings, cell: Cell) -> RepairSettings:
    """The settings with a cell's changes."""
    changes: dict[str, Any] = dict(cell.settings)
    return dataclasses.replace(settings, **changes)


def order_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, each once, such that those that share most come together."""

    def shared(cell: Cell):
        identification = (
            json.dumps(_identification(_changed(RepairSettings(), cell))) if cell.method == "nlsr" else ""
        )
        task = TASKS.index(cell.task) if cell.task in TASKS else len(TASKS)
        return cell.seed, cell.objective, task, cell.poison_ratio, cell.method, identification, str(cell.settings)

    return sorted(dict.fromkeys(cells), key=shared)


def run_cells(
    runner: CellRunner,
    cells: Sequence[Cell],
    *,
    claimed: Callable[[Cell], bool] = lambda _: True,
    note: Callable[[int, int, Cell], None] = lambda done, count, cell: None,
) -> None:
    """Run the cells whose rows are not there yet.

    Args:
      runner: runs one.
      cells: what is wanted.
      claimed: whether a cell is this process's to run.
      note: called before each with how many are done, how many there are, and the cell.
    """
    wanted = order_cells(cells)
    done = runner.store.rows()
    missing = [cell for cell in wanted if runner.name(cell) not in done and claimed(cell)]
    for number, cell in enumerate(missing):
        note(number, len(missing), cell)
        runner.store.add(runner.run(cell))


def read_cells(runner: CellRunner, cells: Sequence[Cell]) -> list[dict]:
    """Return the rows of cells in their order.

    Raises:
      InputError: a cell without a row.
    """
    rows = runner.store.rows()
    missing = [cell for cell in cells if runner.name(cell) not in rows]
    if missing:
        raise InputError(
            f"{runner.store.path}: {len(missing)} of {len(cells)} cells have no row yet; run the sweep"
        )
    return [rows[runner.name(cell)] for cell in cells]


def export_parquet(rows: Sequence[dict], path: str | os.PathLike) -> None:
    """Write rows as a Parquet table; settings and topics as JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [{**row, "settings": json.dumps(row["settings"]), "topics": json.dumps(row["topics"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(flat), path)


def shares(cells: Sequence[Cell], count: int) -> Iterator[list[Cell]]:
    """Cut cells into ``count`` lists such that those of one fine-tuning stay together."""
    groups: dict[Any, list[Cell]] = collections.defaultdict(list)
    for cell in order_cells(cells):
        groups[cell.case, cell.objective].append(cell)
    parts: list[list[Cell]] = [[] for _ in range(count)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(parts, key=len).extend(group)
    yield from parts
