"""The short form of flipped bits."""

from tests.reliability import flips


def test_every_flipped_bit_is_found_and_named(tmp_path):
    found = flips.flip_often(60, tmp_path, 1)
    assert (found.tried, found.missed) == (60, ())
    assert found.files > 20
