"""Cells, their names and the file of their rows."""

import dataclasses
import itertools
import json
import multiprocessing
import re

import pytest

from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.study.defending import DEFENSES, setting_types
from nlsr_jax.sweep.cells import Cell, cell_digest, cell_fields, cells_from_json, make_cell, settings_of
from nlsr_jax.sweep.runner import export_parquet, order_cells, shares
from nlsr_jax.sweep.store import CellStore

STUDY = {"config": "x"}


def row(number):
    return {"cell": f"name {number}", "hs": number / 3}


def test_settings_in_any_order_make_the_same_cell():
    one = make_cell("nlsr", {"beta": 0.9, "sparsity": 0.5}, seed=3)
    assert one == make_cell("nlsr", {"sparsity": 0.5, "beta": 0.9}, seed=3)
    assert cell_digest(one, "study") == cell_digest(
        make_cell("nlsr", {"sparsity": 0.5, "beta": 0.9}, seed=3), "study"
    )
    assert cell_fields(one)["settings"] == {"beta": 0.9, "sparsity": 0.5}


def test_every_field_and_the_study_change_the_name():
    cell = make_cell("nlsr", {"beta": 0.9})
    others = [
        dataclasses.replace(cell, **change)
        for change in (
            {"method": "finetuned"}, {"task": "gsm8k"}, {"poison_ratio": 0.1}, {"seed": 1}, {"objective": "kto"},
            {"settings": (("beta", 1.0),)}, {"settings": ()}, {"architecture": "qwen2"}, {"requests": "contextual"},
            {"identified_on": "gsm8k"},
        )
    ]  # fmt: skip
    names = {cell_digest(other, "study") for other in (cell, *others)} | {cell_digest(cell, "other")}
    assert len(names) == len(others) + 2


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("nslr", {}, "method is 'nslr'; expected one of unaligned"),
        ("finetuned", {"beta": 1}, "finetuned has no settings, found beta"),
        ("nlsr_refined", {"beta": 1}, "nlsr_refined has no settings, found beta"),
        ("nlsr", {"betta": 1}, "nlsr has no setting 'betta'"),
        ("safelora", {"beta": 1}, "safelora has no setting 'beta'; expected some of number, projector, side, tau"),
    ],
)
def test_what_is_no_cell_is_refused(method, settings, message):
    with pytest.raises(InputError, match=message):
        make_cell(method, settings)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"task": "sst3"}, "--tasks has 'sst3'"),
        ({"poison_ratio": 1.5}, "--poison_ratios has 1.5"),
        ({"seed": -1}, "--seeds has -1"),
        ({"seed": "x"}, "setting seed is 'x'; expected a whole number"),
        ({"seed": True}, "setting seed is True; expected a whole number"),
        ({"poison_ratio": "x"}, "setting poison_ratio is 'x'; expected a finite number"),
        ({"task": ["sst2"]}, r"setting task is \['sst2'\]; expected text"),
        ({"objective": "ppo"}, "objective is 'ppo'; expected one of sft"),
        ({"architecture": "gpt"}, "architecture is 'gpt'; expected one of own, llama, qwen2, mistral"),
        ({"requests": "new"}, "requests is 'new'; expected one of plain, contextual"),
        ({"identified_on": "sst3"}, "identified_on is 'sst3'; expected one of sst2"),
        ({"settings": {"beta": "high"}}, "setting beta is 'high'; expected a finite number"),
        ({"settings": {"beta": None}}, "setting beta is None; expected a finite number"),
        ({"settings": {"beta": float("nan")}}, "setting beta is nan; expected a finite number"),
        ({"settings": {"rule": 1}}, "setting rule is 1; expected text"),
        ({"settings": {"rule": "some"}}, "rule is 'some'"),
        ({"settings": {"rule": "layers", "layers": 1}}, "setting layers is 1; expected a list of whole numbers"),
        ({"settings": {"layers": []}}, r"setting layers is \[\]; expected a list of whole numbers"),
        ({"settings": {"layers": {"a": 1}}}, "setting layers is {'a': 1}; expected a list"),
        ({"settings": {"method": "best"}}, "setting method is 'best'; expected one of low_rank"),
        ({"settings": {"draws": 1.5}}, "setting draws is 1.5; expected a whole number"),
        ({"settings": {"draws": 0}}, "setting draws is 0; expected at least 1"),
        ({"settings": {"turned": 1}}, "setting turned is 1; expected true or false"),
        ({"settings": {"sparsity": 1}}, "sparsity is 1.0"),
        ({"settings": [1]}, r"settings are \[1\]; expected names with values"),
    ],
)
def test_what_is_no_case_is_refused(case, message):
    with pytest.raises(InputError, match=message):
        make_cell("nlsr", **case)


def test_only_nlsr_identifies():
    with pytest.raises(InputError, match="identified_on is only for nlsr"):
        make_cell("safelora", identified_on="gsm8k")


def test_equal_numbers_make_one_cell_and_one_name():
    whole, broken = (
        make_cell("nlsr", {"beta": 0}, poison_ratio=0),
        make_cell("nlsr", {"beta": 0.0}, poison_ratio=0.0),
    )
    assert cell_digest(whole, "study") == cell_digest(broken, "study")
    assert make_cell("safelora", {"number": None}).settings == (("number", None),)


@pytest.mark.parametrize(("method", "setting"), [("safelora", "number"), ("nlsr_automatic", "aim")])
def test_settings_of_all_methods_are_checked(method, setting):
    with pytest.raises(InputError, match=f"setting {setting} is 'x'"):
        make_cell(method, {setting: "x"})


def test_lists_among_the_settings_become_values():
    assert make_cell("nlsr", {"rule": "layers", "layers": [1, 2]}) == make_cell(
        "nlsr", {"rule": "layers", "layers": (1, 2)}
    )


def test_cells_are_read_from_json():
    found = cells_from_json([{"method": "nlsr", "settings": {"beta": 0.9}, "seed": 2}, {"method": "aligned"}], "x")
    assert found == [make_cell("nlsr", {"beta": 0.9}, seed=2), Cell("aligned")]
    for wrong in ([], {}, [{"seed": 1}], [{"method": "nlsr", "colour": 1}]):
        with pytest.raises(InputError, match=r"^x: "):
            cells_from_json(wrong, "x")


def test_every_defense_has_a_place_and_its_settings():
    assert {defense.when for defense in DEFENSES.values()} == {"before", "during", "after"}
    assert setting_types("safelora") == {"tau": float, "number": int | None, "projector": str, "side": str}
    assert set(setting_types("lisa")) == {"safe_steps", "customer_steps", "rho", "free_share"}
    assert setting_types("nonaligned") == {}
    assert settings_of("nlsr")["sparsity"] is float
    assert settings_of("finetuned") == {}


def test_cells_that_share_come_together_and_stay_together():
    cells = [
        make_cell(method, settings, seed=seed, task=task)
        for settings in ({"beta": 0.5}, {"beta": 0.9}, {})
        for task in ("gsm8k", "sst2")
        for seed in (1, 0)
        for method in ("nlsr", "finetuned")
        if method == "nlsr" or not settings
    ]
    ordered = order_cells([*cells, *cells])
    assert sorted(map(str, ordered)) == sorted(map(str, cells))
    cases = [cell.case for cell in ordered]
    assert len(set(cases)) == 4
    assert sum(a != b for a, b in itertools.pairwise(cases)) == 3
    parts = list(shares(cells, 3))
    assert sorted(str(cell) for part in parts for cell in part) == sorted(map(str, cells))
    assert [{cell.case for cell in part} for part in parts].count(set()) == 0
    for i, part in enumerate(parts):
        others = {cell.case for j, other in enumerate(parts) if j != i for cell in other}
        assert not others & {cell.case for cell in part}
    assert list(shares(cells[:1], 3)) == [cells[:1], [], []]


def test_rows_come_back_and_half_lines_do_not_count(tmp_path):
    store = CellStore(tmp_path / "sweep", STUDY)
    assert store.rows() == {}
    store.add(row(1))
    with (tmp_path / "sweep" / "rows.jsonl").open("ab") as file:
        file.write(b'{"cell": "name 2", "hs"')  # what a process leaves that dies while it writes
    assert list(store.rows()) == ["name 1"]
    again = CellStore(tmp_path / "sweep", STUDY)
    again.add(row(3))
    assert again.rows() == {"name 1": row(1), "name 3": row(3)}


def test_rows_of_another_study_are_refused(tmp_path):
    CellStore(tmp_path, STUDY)
    with pytest.raises(InputError, match="has rows of another study"):
        CellStore(tmp_path, {"config": "y"})


def test_a_folder_of_other_things_does_not_become_one_of_rows(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"contains index.html but no study.json"):
        CellStore(tmp_path, STUDY)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize(("read", "how"), [("out", "is"), ("out/base", "holds"), (".", "lies in")])
def test_rows_are_kept_apart_from_what_is_read(tmp_path, read, how):
    (tmp_path / "out" / "base").mkdir(parents=True)
    (tmp_path / "out" / "study.json").touch()
    with pytest.raises(InputError, match=f"{how} the input --base"):
        CellStore(tmp_path / "out", STUDY, {"--base": tmp_path / read})


def test_a_file_of_the_users_is_not_replaced_by_the_table(tmp_path):
    (tmp_path / "table.parquet").write_text("mine")
    with pytest.raises(InputError, match="this file is not a Parquet table with cell, settings, topics"):
        export_parquet([{"cell": "0", "settings": {}, "topics": {}}], tmp_path / "table.parquet")
    assert (tmp_path / "table.parquet").read_text() == "mine"


def add_rows(path, numbers):
    store = CellStore(path, STUDY)
    for number in numbers:
        store.add(row(number))


def test_several_processes_write_whole_lines(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_rows, args=(tmp_path, range(i, 60, 2))) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["cell"] for line in lines) == sorted(f"name {i}" for i in range(60))


def test_the_automatic_choice_has_one_share_where_it_is_asked_for():
    assert dict(make_cell("nlsr_automatic").settings) == {"aim": 0.98, "headroom": 1.25}
    assert make_cell("nlsr_automatic", {"share": None}) == make_cell("nlsr_automatic")
    assert dict(make_cell("nlsr_automatic", {"share": 0.03}).settings)["share"] == 0.03
    with pytest.raises(InputError, match="share"):
        make_cell("nlsr_automatic", {"share": "few"})


def test_a_users_partial_file_is_kept(tmp_path):
    (tmp_path / "study.partial").write_text("mine")
    with pytest.raises(InputError, match=r"contains study\.partial but no study\.json"):
        CellStore(tmp_path, STUDY)
    assert (tmp_path / "study.partial").read_text() == "mine"


def test_what_a_process_left_that_died_while_it_began_is_used(tmp_path):
    for name in (".lock", ".study.json.partial"):
        (tmp_path / name).write_text("")
    CellStore(tmp_path, STUDY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "study.json"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for place in (tmp_path / "file", tmp_path / "file" / "rows", tmp_path / "link"):
        with pytest.raises(InputError, match=re.escape(f"{place}: ")):
            CellStore(place, STUDY)
    assert (tmp_path / "file").read_text() == "mine"


def test_tasks_of_the_users_are_known_where_they_are_named():
    names = (*TASKS, "films")
    assert make_cell("finetuned", task="films", tasks=names).task == "films"
    (cell,) = cells_from_json([{"method": "nlsr", "task": "films", "identified_on": "films"}], "list", names)
    assert cell.identified_on == "films"
    with pytest.raises(InputError, match="--tasks has 'films'; expected some of sst2, ag_news, gsm8k"):
        make_cell("finetuned", task="films")
    ordered = order_cells([make_cell("finetuned", task=task, tasks=names) for task in ("films", "gsm8k", "sst2")])
    assert [cell.task for cell in ordered] == ["sst2", "gsm8k", "films"]
