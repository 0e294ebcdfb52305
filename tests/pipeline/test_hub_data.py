"""Data sets of the hub are recorded with their revision, and folders of rows with the digests of their files."""

import types

import pytest

from nlsr_jax.data.places import open_rows
from nlsr_jax.formats.record import Digests
from nlsr_jax.pipeline.hub_inputs import DATA, with_hub_folders
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.progress import Stages

COMMIT = "0a" * 20


def pinned(given):
    return with_hub_folders(Settings(calibration=given), DATA, Stages(show=False)).calibration


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows one data set; returns what it was asked."""
    import huggingface_hub

    asked = []

    def tell(_, name, *, revision=None):
        asked.append((name, revision))
        if name != "someone/rows":
            raise OSError("no such data set")
        return types.SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", tell)
    return asked


def test_a_data_set_gets_the_revision_that_it_has_now(hub, tmp_path):
    assert pinned("someone/rows") == pinned("someone/rows@v1") == f"someone/rows@{COMMIT}"
    assert hub == [("someone/rows", None), ("someone/rows", "v1")]
    (tmp_path / "rows").mkdir()
    for given in (f"someone/rows@{COMMIT}", str(tmp_path / "rows"), "rows/file.jsonl", "rows", None):
        assert pinned(given) == given
    assert len(hub) == 2, "what is no data set of the hub, or has its commit, is not asked for"
    assert pinned("someone/other") == "someone/other"


def test_rows_are_read_at_their_revision(monkeypatch):
    datasets = pytest.importorskip("datasets")
    seen = []

    def load(name, config, *, split, revision):
        seen.append((name, config, split, revision))
        return [{"prompt": "how"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    (row,) = open_rows(f"someone/rows@{COMMIT}", "train")
    assert row.values == {"prompt": "how"}
    list(open_rows("someone/rows", "test"))
    assert seen == [("someone/rows", None, "train", COMMIT), ("someone/rows", None, "test", None)]


def test_every_file_of_a_folder_of_rows_is_digested(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"1")
    (tmp_path / "inner" / "b.parquet").write_bytes(b"2")
    digests = Digests()
    digests.add_data("calibration", tmp_path)
    digests.add_data("harmless", tmp_path / "a.parquet")
    digests.add_data("other", "someone/rows")
    found = digests.result()
    digests.close()
    assert {*found["calibration"]["files"]} == {"a.parquet", "inner/b.parquet"}
    assert found["harmless"]["files"] == {"a.parquet": found["calibration"]["files"]["a.parquet"]}
    assert found["other"]["files"] == {}
