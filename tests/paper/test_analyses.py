"""Analyses and whole tables on the study in its smallest form."""

import json

import numpy as np
import pytest

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.paper import analyses
from nlsr_jax.paper.analyses import ANALYSES, analyse, identification_seconds
from nlsr_jax.paper.generations import GENERATIONS, generate, markdown
from nlsr_jax.paper.results import summarise
from nlsr_jax.paper.tables import MODELS, get_table
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.sweep.cells import make_cell
from nlsr_jax.sweep.runner import CellRunner, describe_study, read_cells
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.sweep.workers import run_cells
from tests.study.small_study import small_config

pytestmark = pytest.mark.long
SEEDS = (3,)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    world, config = ToyWorld(), small_config()
    base = load_base(SHIPPED / "base", world)
    store = CellStore(tmp_path_factory.mktemp("laboratory"), describe_study(config))
    return CellRunner(lambda architecture: (base, world), config, store)


def shares(values):
    found = np.asarray(values)
    return bool(((found >= 0) & (found <= 1)).all())


def test_similarities_are_counted_below_every_threshold(runner):
    found = analyse(runner, "similarities", SEEDS)
    assert set(found["below"]) == set(analyses.OBJECTIVES)
    for by_sparsity in found["below"].values():
        for counts in by_sparsity.values():
            assert len(counts) == len(found["taus"])
            assert shares(counts)
            assert counts == sorted(counts)
    assert all(len(values) == 6 for values in found["by_layer"].values())
    (result,) = runner.realigned(make_cell("nlsr", {"sparsity": 0.5, "rule": "all", "draws": 1}, seed=3))
    by_layer = np.mean([np.asarray(v) for v in result.similarity.values()], axis=0)
    np.testing.assert_allclose(found["by_layer"]["0.5"], by_layer, rtol=1e-6)


def test_methods_agree_with_themselves_and_random_masks_by_chance(runner):
    found = analyse(runner, "identification", SEEDS)
    overlap, agreement = np.array(found["overlap"]), np.array(found["agreement"])
    np.testing.assert_array_equal(np.diag(agreement), 1)
    np.testing.assert_array_equal(agreement, agreement.T)
    np.testing.assert_allclose(np.diag(overlap), 1)
    assert found["overlap_chance"] == pytest.approx(0.2, abs=0.001)
    row = overlap[found["methods"].index("random")]
    others = [value for name, value in zip(found["methods"], row, strict=True) if name not in ("random", "gain")]
    np.testing.assert_allclose(others, 0.2, atol=0.02)
    gained = dict(zip(found["methods"], found["gained"], strict=True))
    assert max(gained, key=gained.get) == "gain"
    assert -0.2 < gained["random"] < 0.5 * gained["gain"] <= 1


def test_probes_and_depth_have_a_value_for_every_layer(runner):
    found = analyse(runner, "probes", SEEDS)
    assert set(found) == {"aligned", "finetuned", "nlsr"}
    for kinds in found.values():
        for values in kinds.values():
            assert len(values) == 7
            assert shares(values)
            assert values[0] < 0.8 < max(values)  # the last token's embedding knows nothing of the request
    for parts in analyse(runner, "depth", SEEDS).values():
        assert all(len(values) == 6 and shares(values) for values in parts.values())


def test_skills_are_asked_of_every_model(runner):
    found = analyse(runner, "skills", SEEDS)
    assert found["unaligned"] == {"skill_sst2": 100.0, "skill_ag_news": 100.0, "skill_gsm8k": 96.0}
    assert len(found) == 5


def test_what_was_analysed_is_kept(runner, monkeypatch):
    before = {name: analyse(runner, name, SEEDS) for name in ANALYSES}
    monkeypatch.setattr(analyses, "ANALYSES", dict.fromkeys(ANALYSES))
    assert {name: analyse(runner, name, SEEDS) for name in ANALYSES} == before
    assert len(list((runner.store.path / "analyses").glob("*.json"))) == len(ANALYSES)


def test_seconds_are_measured_for_every_method_of_table_five(runner):
    seconds = identification_seconds(runner, 3)
    names = {line.name for line in get_table(5).lines} - {"finetuned"}
    assert set(seconds) == names
    assert min(seconds.values()) > 0


def test_the_ablations_are_run_and_summarised(runner):
    table = get_table(12)
    cells = [cell for cell in table.cells(SEEDS) if cell.task == "sst2"]
    run_cells(runner, cells)
    rows = dict(zip(cells, read_cells(runner, cells), strict=True))
    one = table._replace(
        columns=table.columns[:1],
        lines=tuple(
            line._replace(options={words: cells[:1] for words, cells in line.options.items()})
            for line in table.lines
        ),
    )
    results = summarise(one, rows, SEEDS)
    by_name = {result.line.name: result.values["hs"][0].mean for result in results}
    assert len(by_name) == len(table.lines)
    # What is turned and turned back is what it was, rounding apart.
    assert by_name["gain turned, procrustes"] == pytest.approx(by_name["gain"], abs=8)


def test_generations_show_every_model_side_by_side(runner):
    examples = generate(runner, 3)
    for table in GENERATIONS.values():
        text = markdown(table, examples)
        assert text.count("| answer |") >= 1
        assert text.count("before alignment") == text.count("| answer |")
    assert all(len(example.answers) == len(MODELS) for example in examples)
    json.dumps([example._asdict() for example in examples])
