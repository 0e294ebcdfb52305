"""The short form of flipped bits."""

from nlsr_jax.pipeline.verification import Findings
from tests.reliability import flips
from tests.reliability.results import ROOT
from tests.reliability.suites import SUITES


def test_every_flipped_bit_is_found_and_named(tmp_path):
    found = flips.flip_often(60, tmp_path, 1)
    assert (found.tried, found.missed) == (60, ())
    assert found.files > 20


def test_a_check_that_misses_one_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(flips, "verify", lambda output: Findings((), (), 1))
    assert len(flips.flip_often(3, tmp_path, 0).missed) == 3


def test_a_check_that_names_another_file_is_seen(tmp_path, monkeypatch):
    (tmp_path / "masks.safetensors").write_bytes(b"1")
    monkeypatch.setattr(flips, "verify", lambda output: Findings(("report.html: has changed",), (), 1))
    assert not flips.named(tmp_path, tmp_path / "masks.safetensors")
    assert flips.named(tmp_path, tmp_path / "report.html")


def test_there_are_tests_behind_every_line_of_the_table():
    for pattern in SUITES.values():
        assert list(ROOT.glob(pattern)), pattern
