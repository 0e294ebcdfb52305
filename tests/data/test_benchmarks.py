"""Benchmarks: every published layout gives its requests, and any other one line of error."""

import pytest

from nlsr_jax.data import rows as rows_module
from nlsr_jax.data.benchmarks import BENCHMARKS, BENIGN, HARMFUL, check_whole, names_of
from nlsr_jax.data.sources import DATA_SETS, load
from nlsr_jax.errors import InputError
from tests.data.benchmark_rows import COPIES, GOOD, HARM, ROWS
from tests.data.set_rows import write

LAYOUTS = [*ROWS.items(), *COPIES.items()]


@pytest.mark.parametrize(("name", "rows"), LAYOUTS)
def test_every_layout_gives_its_requests(tmp_path, name, rows):
    for suffix in ("jsonl", "csv"):
        loaded = load(name, str(write(tmp_path / f"{name}.{suffix}", rows)), template="none")
        check_whole(name, loaded)
        (row,) = loaded.rows
        assert (row.prompt, row.response) == (HARM if BENCHMARKS[name].kind == HARMFUL else GOOD, "")
        assert row.kind == BENCHMARKS[name].kind
        assert len(row.categories) == any(key in ("category", "Category", "type") or "Semantic" in key
                                          for key in rows[0])  # fmt: skip


def test_all_benchmarks_have_rows_here_and_a_place_on_the_hub():
    assert set(BENCHMARKS) - set(ROWS) == {"beavertails_prompts"}
    assert set(names_of(HARMFUL)) | set(names_of(BENIGN)) == set(BENCHMARKS)
    for name, one in BENCHMARKS.items():
        assert "/" in one.hub
        assert DATA_SETS[name].test == one.split


@pytest.mark.parametrize("name", sorted(ROWS))
def test_other_columns_are_one_line(tmp_path, name):
    path = write(tmp_path / "other.csv", [{"text": HARM, "number": 1}])
    with pytest.raises(InputError) as caught:
        load(name, str(path), template="none")
    message = str(caught.value)
    assert "\n" not in message
    assert "holds a request (found the columns text, number)); is this the right data set?" in message
    assert ROWS[name][0].keys() & set(message.replace("'", " ").split())


def test_one_bad_row_is_an_error_because_a_part_is_another_benchmark(tmp_path):
    rows = [*ROWS["xstest"], {**ROWS["xstest"][0], "label": "maybe"}]
    path = write(tmp_path / "x.jsonl", rows)
    with pytest.raises(InputError, match=r"x\.jsonl: line 3: 'label' is not one of safe, unsafe; the rows do not"):
        check_whole("xstest", load("xstest", str(path), template="none"))


def test_older_files_of_xstest_mark_unsafe_rows_by_their_type(tmp_path):
    older = [{key: row[key] for key in ("id", "type", "prompt")} for row in ROWS["xstest"]]
    path = str(write(tmp_path / "x.csv", older))
    found = [load(name, path, template="none").rows[0].prompt for name in ("xstest", "xstest_unsafe")]
    assert found == [GOOD, HARM]


def test_files_without_a_header_and_with_tabs(tmp_path):
    (tmp_path / "hex").mkdir()
    (tmp_path / "hex" / "category_1.csv").write_text(f'"{HARM}, twice"\n{HARM}\n')
    (tmp_path / "hex" / "category_3.csv").write_text(f"{HARM} again\n")
    expected = [f"{HARM}, twice", HARM, f"{HARM} again"]
    assert [row.prompt for row in load("hex_phi", str(tmp_path / "hex"), template="none").rows] == expected
    one = load("hex_phi", str(tmp_path / "hex" / "category_1.csv"), template="none").rows
    assert [row.prompt for row in one] == expected[:2]
    lines = ["\t".join(map(str, row.values())) for row in [dict.fromkeys(ROWS["wildjailbreak"][0], ""),
                                                           *ROWS["wildjailbreak"]]]  # fmt: skip
    lines[0] = "\t".join(ROWS["wildjailbreak"][0])
    (tmp_path / "eval.tsv").write_text("\n".join(lines) + "\n")
    assert [row.prompt for row in load("wildjailbreak", str(tmp_path / "eval.tsv"), template="none").rows] == [HARM]


@pytest.mark.parametrize("name", ["hex_phi", "wildjailbreak", "jailbreakbench_benign"])
def test_the_hub_is_asked_as_the_benchmark_is_laid_out(monkeypatch, name):
    datasets, asked = pytest.importorskip("datasets"), []

    def load_dataset(place, config, **options):
        asked.append((place, config, options))
        return COPIES.get(name, ROWS[name])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load(name, template="none").rows) == 1
    one = BENCHMARKS[name]
    assert asked == [(one.hub, one.config, {"split": one.split, "revision": None, **one.reading})]


def test_splits_of_files_without_a_header_are_read_together(tmp_path):
    pytest.importorskip("datasets")
    for number in (1, 3):
        (tmp_path / f"category_{number}.csv").write_text(f'"{HARM}, {number}"\n')
    splits = "".join(f"  - split: Category_{n}\n    path: category_{n}.csv\n" for n in (1, 3))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    one = BENCHMARKS["hex_phi"]
    found = list(rows_module.hub_rows(str(tmp_path), one.split, None, one.reading))
    assert [row for _, row in found] == [{"prompt": f"{HARM}, {n}"} for n in (1, 3)]
