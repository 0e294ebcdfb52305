"""Places of data: parts by name, folder or column, and rows that would be trained on and examined."""

import json

import pytest

from nlsr_jax.data.given import TEST, TRAIN, Given, check_names
from nlsr_jax.data.own_sets import OwnTask
from nlsr_jax.data.places import keeps_apart
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from tests.data.set_rows import write

TASK = OwnTask("films", label_field="label", labels=("bad", "good"))
ROWS = [{"text": f"film {i}", "prompt": f"film {i}", "label": i % 2} for i in range(6)]
SPLIT = [row | {"split": "train" if i < 4 else "test"} for i, row in enumerate(ROWS)]


def given(**places):
    return Given({name.replace("__", "."): str(place) for name, place in places.items()}, {"films": TASK})


def prompts(source, part):
    return [row.prompt.rpartition("\n")[2] for row in source.load("films", part, template="none").rows]


def test_parts_are_named_or_in_a_folder_or_in_a_column(tmp_path):
    for part, rows in (("train", ROWS[:4]), ("test", ROWS[4:])):
        write(tmp_path / f"films.{part}.csv", rows)
    named = given(films__train=tmp_path / "films.train.csv", films__test=tmp_path / "films.test.csv")
    column = given(films=write(tmp_path / "all.jsonl", SPLIT))
    for source in (named, given(films=tmp_path), column):
        assert prompts(source, TRAIN) == [f"film {i}" for i in range(4)]
        assert prompts(source, TEST) == ["film 4", "film 5"]
        source.check_apart(["films"])


def test_one_file_for_both_is_refused_at_once_and_when_it_is_read(tmp_path):
    place = write(tmp_path / "all.jsonl", ROWS)
    message = (
        r"all.jsonl: the same rows are for training \(films\) and for the evaluation \(films\); give two places"
    )
    with pytest.raises(InputError, match=message):
        given(films=place).check_apart(["films"])
    source = given(films=place)
    assert len(prompts(source, TEST)) == 6
    with pytest.raises(InputError, match=message):
        prompts(source, TRAIN)
    linked = tmp_path / "other.jsonl"
    linked.symlink_to(place)
    with pytest.raises(InputError, match="the same rows"):
        given(films__train=place, films__test=linked).check_apart(["films"])


def test_harmful_answers_and_forbidden_requests_must_be_apart_too(tmp_path):
    place = write(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    with pytest.raises(InputError, match=r"for training \(harmful\) and for the evaluation \(forbidden\)"):
        given(harmful=place, forbidden=place).check_apart([])
    given(safe=place, harmful=place).check_apart([])


def test_what_was_read_is_told_with_its_part(tmp_path):
    column, whole = write(tmp_path / "a.jsonl", SPLIT), write(tmp_path / "b.jsonl", ROWS)
    source = Given({"films": str(column), "mail": str(whole)}, {"films": TASK, "mail": TASK})
    prompts(source, TRAIN)
    source.load("mail", TRAIN, template="none")
    assert source.files() == [
        {"name": "a.jsonl", "sha256": sha256(column), "rows": "train"},
        {"name": "b.jsonl", "sha256": sha256(whole), "rows": "all"},
    ]


@pytest.mark.parametrize(
    ("word", "part"), [("Training", TRAIN), ("validation", None), ("test", TEST), ("", None), (3, TEST)]
)
def test_words_of_splits(tmp_path, word, part):
    place = write(tmp_path / "rows.jsonl", [ROWS[0] | {"split": word}])
    for one in (TRAIN, TEST):
        source = given(films=place)
        if one == part or word == 3:  # which is no split
            assert len(prompts(source, one)) == 1
        else:
            with pytest.raises(InputError, match=f"no rows of split '{one}'; its column 'split' has {word}"):
                prompts(source, one)


def test_validation_rows_are_the_test_of_sst2(tmp_path):
    rows = [{"sentence": "a film", "label": 1, "split": word} for word in ("train", "val", "test")]
    source = Given({"sst2": str(write(tmp_path / "rows.jsonl", rows))})
    assert [len(source.load("sst2", part).rows) for part in (TRAIN, TEST)] == [1, 2]


def test_folders_keep_apart_by_their_names(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "rows.parquet")
    assert not keeps_apart(str(tmp_path), TRAIN, TEST)
    pq.write_table(table, tmp_path / "test-0.parquet")
    (tmp_path / "rows.parquet").rename(tmp_path / "train-0.parquet")
    assert keeps_apart(str(tmp_path), TRAIN, TEST)


def test_a_task_without_rows_and_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"--data names no rows of films for training; give --data films\.train"):
        given().load("films", TRAIN)
    for name in ("poems", "films.dev"):
        with pytest.raises(InputError, match=f"--data names '{name}'; expected NAME=PATH, NAME.train=PATH"):
            check_names({name: "x"}, ["films"])
    check_names(json.loads('{"films.test": "x", "safe": "y", "sst2": "z"}'), ["films"])
