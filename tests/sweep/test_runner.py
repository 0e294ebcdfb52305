"""Cells run once each: what they share, what their rows depend on, and that a sweep goes on after a death."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from nlsr_jax.adapter import delta
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.errors import InputError
from nlsr_jax.study.defending import DEFENSES
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.situations import SITUATIONS, lineage, lineage_of
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.study.workshop import Made, Workshop
from nlsr_jax.sweep import runner as sweeping
from nlsr_jax.sweep.cells import SCORES, make_cell
from nlsr_jax.sweep.runner import CellRunner, describe_study, export_parquet, read_cells
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.sweep.workers import run_cells
from tests.study.small_study import small_config

pytestmark = pytest.mark.long

CELLS = [
    make_cell("aligned"),
    make_cell("nlsr", {"beta": 0.5, "method": "gain", "granularity": "adapter", "sparsity": 0.99, "rule": "all"}),
    make_cell("nlsr", {"beta": 0.5}),
    make_cell("nlsr", {"beta": 0.5, "base_probability": 0.0, "increment": 0.1}),
    make_cell("finetuned"),
    make_cell("safelora", {"number": 3}),
    make_cell("unaligned"),
]


@pytest.fixture(scope="module")
def study():
    world = ToyWorld()
    return load_base(SHIPPED / "base", world), world, small_config()


def make_runner(study, path):
    base, world, config = study
    return CellRunner(lambda architecture: (base, world), config, CellStore(path, describe_study(config)))


@pytest.fixture(scope="module")
def swept(study, tmp_path_factory):
    runner = make_runner(study, tmp_path_factory.mktemp("sweep") / "one")
    run_cells(runner, CELLS)
    return runner


def test_every_cell_has_a_row_in_the_order_asked_for(swept):
    rows = read_cells(swept, CELLS)
    assert [(row["method"], row["settings"]) for row in rows] == [(c.method, dict(c.settings)) for c in CELLS]
    for row in rows:
        assert all(0 <= row[name] <= 100 for name in SCORES)
        assert set(row) == {
            "cell",
            "method",
            "task",
            "poison_ratio",
            "seed",
            "objective",
            "architecture",
            "requests",
            "identified_on",
            "settings",
            "topics",
            *SCORES,
        }


def test_rows_do_not_depend_on_the_order_or_on_what_was_run_before(study, swept, tmp_path):
    runner = make_runner(study, tmp_path / "two")
    for cell in CELLS[::-1][2:5]:  # one at a time, adapters read from their files
        run_cells(runner, [cell])
        runner = make_runner(study, tmp_path / "two")
    assert read_cells(runner, CELLS[2:5]) == read_cells(swept, CELLS[2:5])


def test_done_cells_are_not_run_again_and_missing_ones_are_named(study, swept, monkeypatch):
    monkeypatch.setattr(CellRunner, "run", lambda self, cell: pytest.fail("it was run again"))
    before = (swept.store.path / "rows.jsonl").read_bytes()
    run_cells(make_runner(study, swept.store.path), [*CELLS, *CELLS])
    assert (swept.store.path / "rows.jsonl").read_bytes() == before
    with pytest.raises(InputError, match="1 of 8 cells have no row yet"):
        read_cells(swept, [*CELLS, make_cell("finetuned", seed=5)])


def test_only_claimed_cells_are_run(swept, monkeypatch):
    run = []
    monkeypatch.setattr(CellRunner, "run", lambda self, cell: run.append(cell) or {"cell": f"fake {len(run)}"})
    monkeypatch.setattr(CellStore, "add", lambda self, row: None)
    cells = [make_cell("finetuned", seed=seed) for seed in range(5, 9)]
    run_cells(swept, cells, claimed=lambda cell: cell.seed % 2 == 0)
    assert [cell.seed for cell in run] == [6, 8]


def test_the_studys_own_architecture_by_its_name_is_the_same_cell(swept, monkeypatch):
    named = dataclasses.replace(CELLS[0], architecture="llama")
    assert swept.name(named) == swept.name(CELLS[0])
    run = []
    monkeypatch.setattr(CellRunner, "run", lambda self, cell: run.append(cell) or {"cell": self.name(cell)})
    monkeypatch.setattr(CellStore, "add", lambda self, row: None)
    other = dataclasses.replace(named, seed=9)
    run_cells(swept, [other, dataclasses.replace(other, architecture="own")])
    assert run == [other]


def test_a_sweep_that_died_goes_on(study, swept, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real, left = CellRunner.run, [2]

    def mortal(self, cell):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return real(self, cell)

    monkeypatch.setattr(CellRunner, "run", mortal)
    with pytest.raises(Killed):
        run_cells(make_runner(study, tmp_path / "two"), CELLS)
    monkeypatch.setattr(CellRunner, "run", real)
    runner = make_runner(study, tmp_path / "two")
    assert len(runner.store.rows()) == 2
    run_cells(runner, CELLS)
    assert read_cells(runner, CELLS) == read_cells(swept, CELLS)


def test_the_table_is_read_by_others(swept, tmp_path):
    import pyarrow.parquet as pq

    rows = read_cells(swept, CELLS)
    export_parquet(rows, tmp_path / "table.parquet")
    table = pq.read_table(tmp_path / "table.parquet").to_pylist()
    assert [row["hs"] for row in table] == [row["hs"] for row in rows]
    assert [json.loads(row["settings"]) for row in table] == [row["settings"] for row in rows]


def test_another_base_makes_other_names_and_another_config_is_another_study(study, swept):
    base, world, config = study
    other = base._replace(params={**base.params, "norm": {"scale": np.asarray(base.params["norm"]["scale"]) * 2}})
    runner = make_runner((other, world, config), swept.store.path)
    assert not {runner.name(cell) for cell in CELLS} & {swept.name(cell) for cell in CELLS}
    changed = dataclasses.replace(config, calibration_rows=10)
    with pytest.raises(InputError, match="has rows of another study"):
        make_runner((base, world, changed), swept.store.path)


def test_transfer_chooses_on_the_other_task_and_repairs_its_own(study, swept):
    settings = {"beta": 0.5, "rule": "least_similar", "share": 0.5}
    own, other = (make_cell("nlsr", settings, identified_on=task) for task in (None, "gsm8k"))
    runner = make_runner(study, swept.store.path)
    (here,), (there,) = runner.realigned(own), runner.realigned(other)
    (source,) = runner.realigned(make_cell("nlsr", settings, task="gsm8k"))
    finetuned = runner.tuned("llama", own.case, own.objective)
    for module, pruned in there.pruned.items():
        np.testing.assert_array_equal(pruned, source.pruned[module])
        for factor, leaf in there.adapter.factors[module].items():
            kept = np.asarray(pruned)
            np.testing.assert_array_equal(leaf[kept], finetuned.factors[module][factor][kept])
    assert {m: v.tolist() for m, v in here.pruned.items()} != {m: v.tolist() for m, v in there.pruned.items()}
    (again,) = runner.realigned(make_cell("nlsr", settings, identified_on="sst2"))
    for module, leaf in again.adapter.factors.items():
        for factor, value in leaf.items():
            np.testing.assert_array_equal(value, here.adapter.factors[module][factor])


def test_every_method_of_identification_and_the_other_requests_make_a_row(study, swept):
    cells = [make_cell("nlsr", {"beta": 0.5, "method": name}) for name in ("preference_snip", "snip", "random")]
    cells += [make_cell("nlsr", {"beta": 0.5, "rule": "layers", "layers": [1, 2]}, requests="contextual")]
    cells += [make_cell("nlsr_automatic"), make_cell("nlsr_automatic", {"aim": 0.9})]
    runner = make_runner(study, swept.store.path)
    run_cells(runner, cells)
    assert all(0 <= row[score] <= 100 for row in read_cells(runner, cells) for score in SCORES)


def test_a_refined_cell_is_the_situation_of_a_lineage(study, swept):
    base, world, config = study
    runner, cell = make_runner(study, swept.store.path), make_cell("nlsr_refined")
    alignment = runner.alignment("llama", cell.seed, cell.objective)
    workshop = Workshop(base, world, config, alignment.aligned, {}, lineage=alignment)
    settings = SITUATIONS["lineage"].recommended
    expected, _ = lineage(workshop, cell.case).refined(settings.beta, round(1 - settings.sparsity, 6))
    jax.tree.map(np.testing.assert_array_equal, runner.adapters(cell)[0].factors, expected.adapter.factors)


def test_beta_has_no_effect_where_the_weak_adapter_is_the_aligned_one(study, swept):
    base, world, config = study
    runner, cell = make_runner(study, swept.store.path), make_cell("nlsr_refined", objective="sft")
    alignment = runner.alignment("llama", cell.seed, cell.objective)
    workshop = Workshop(base, world, config, alignment.aligned, {}, lineage=alignment)
    tuned = Made(base, runner.tuned("llama", cell.case, cell.objective), 0.0)
    holding = lineage_of(workshop, cell.case, alignment, tuned)
    one, two = (delta(holding.repaired(beta, 0.01).adapter) for beta in (0.0, 1.0))
    for module, product in one.items():
        np.testing.assert_allclose(two[module], product, atol=1e-6)


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_gives_a_model(study, swept, name):
    runner = make_runner(study, swept.store.path)
    cell = make_cell(name)
    run_cells(runner, [cell])
    (row,) = read_cells(runner, [cell])
    assert all(0 <= row[score] <= 100 for score in SCORES)
    adapter = runner.adapters(cell)[0]
    finetuned = runner.tuned(cell.architecture, cell.case, cell.objective)
    same = [
        np.array_equal(adapter.factors[m][f], finetuned.factors[m][f]) for m in adapter.factors for f in ("a", "b")
    ]
    assert not all(same), "it changed nothing"
    assert all(np.isfinite(adapter.factors[m][f]).all() for m in adapter.factors for f in ("a", "b"))


def test_sweeping_is_the_same_study_as_the_story(study, swept):
    """The published method as a cell has the figures that the story gives it."""
    from nlsr_jax.study.bench import Bench
    from nlsr_jax.study.case import Aligned
    from nlsr_jax.study.exam import make_exam

    base, world, config = study
    cell = CELLS[2]
    asked = config.exam
    exam = make_exam(world, cell.task, forbidden=asked.forbidden, benign=asked.benign, rows=asked.rows)
    alignment: Aligned = swept.alignment(cell.architecture, cell.seed, cell.objective)
    settings = sweeping._changed(config.published, cell)
    found = Bench(base, world, config, cell.case, exam).realigned(
        "nlsr", swept.tuned(cell.architecture, cell.case, cell.objective), alignment, settings
    )
    (row,) = read_cells(swept, [cell])
    assert all(found.row[name] == row[name] for name in SCORES)
