"""Files, directories of Parquet files and saved data sets give the same rows."""

import pytest

from nlsr_jax.data.places import open_rows
from nlsr_jax.errors import InputError
from tests.data.set_rows import AG_NEWS, BEAVERTAILS, write


def values(source, split="train", config=None):
    return [row.values for row in open_rows(str(source), split, config)]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_files_keep_their_order_and_types(tmp_path, suffix):
    assert values(write(tmp_path / f"x.{suffix}", BEAVERTAILS)) == BEAVERTAILS


def test_rows_of_csv_files_are_cells(tmp_path):
    rows = list(open_rows(str(write(tmp_path / "x.csv", AG_NEWS)), "train"))
    assert all(row.cells for row in rows)
    assert [row.values["label"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0].where == f"{tmp_path / 'x.csv'}: line 2"


def test_a_directory_of_parquet_files_is_read_in_order(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train-00001-of-00002.parquet", AG_NEWS[2:])
    write(folder / "train-00000-of-00002.parquet", AG_NEWS[:2])
    write(folder / "test-00000-of-00001.parquet", AG_NEWS[:1])
    assert values(tmp_path) == AG_NEWS
    assert values(tmp_path, "test") == AG_NEWS[:1]
    with pytest.raises(InputError, match="no Parquet files for split 'validation'; found files for test, train"):
        values(tmp_path, "validation")
    (row, *_) = open_rows(str(tmp_path), "train")
    assert row.where.endswith("data/train-00000-of-00002.parquet: row 1")


def test_splits_in_folders_and_in_names_of_their_own(tmp_path):
    (tmp_path / "main" / "train").mkdir(parents=True)
    write(tmp_path / "main" / "train" / "0000.parquet", AG_NEWS)
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "train.parquet", AG_NEWS[:1])
    assert values(tmp_path, "train", "main") == AG_NEWS
    beaver = tmp_path / "beaver"
    beaver.mkdir()
    write(beaver / "30k_train.parquet", AG_NEWS[:3])
    write(beaver / "330k_train.parquet", AG_NEWS)
    assert values(beaver, "30k_train") == AG_NEWS[:3]


def test_files_whose_names_tell_of_no_split_are_all_read(tmp_path):
    write(tmp_path / "part-0.parquet", AG_NEWS[:3])
    write(tmp_path / "part-1.parquet", AG_NEWS[3:])
    assert values(tmp_path, "30k_train") == AG_NEWS


def test_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(BEAVERTAILS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select(range(1))}).save_to_disk(str(tmp_path / "two"))
    assert values(tmp_path / "one", "30k_train") == BEAVERTAILS
    assert values(tmp_path / "two") == BEAVERTAILS
    assert values(tmp_path / "two", "test") == BEAVERTAILS[:1]
    with pytest.raises(InputError, match="no split 'validation'; found train, test"):
        values(tmp_path / "two", "validation")


def test_places_without_rows_are_named(tmp_path):
    with pytest.raises(InputError, match="has no Parquet files and was not written by datasets"):
        values(tmp_path)
    with pytest.raises(InputError, match=r"absent.jsonl: no such file"):
        values(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="cannot be loaded as a hub data set"):
        values("nobody/absent-data-set")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a data set"):
        values(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "x.parquet", AG_NEWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        values(tmp_path)
