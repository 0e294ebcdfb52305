"""Limits are times of the work alone: less work takes less time, and no product is left out."""

import re

import numpy as np

from benchmarks import limits
from benchmarks.limits import Product, fastest, operations, product_seconds
from benchmarks.table import limit_cells
from nlsr_jax.architecture.known import known_config


def test_a_product_takes_less_time_than_a_program_that_computes_it_four_times():
    product = Product(256, 256, 256)
    one = np.ones((256, 256), np.float32)

    def four_times():
        for _ in range(4):
            one @ one

    assert 0 < product_seconds(product) < fastest(four_times)


def test_moving_bytes_takes_about_as_long_as_copying_them():
    """A copy by one core reads and writes. Other work on the machine changes either time."""
    source, target = np.ones(8 * 2**20, np.float64), np.empty(8 * 2**20, np.float64)
    alone = fastest(lambda: np.copyto(target, source))
    limit = limits.of_bytes(2 * source.nbytes)
    assert alone / 16 < limit.seconds < 4 * alone
    assert re.fullmatch(r"moving 0\.13 GB at [\d.]+ GB/s", limit.of)


def test_products_are_those_of_the_model():
    config = known_config("llama3_8b")
    layer = 4096 * (4096 + 1024 + 1024 + 4096 + 3 * 14336)
    factors = 16 * (4096 + 4096 + 2 * (4096 + 1024) + 4096 + 4096 + 3 * (4096 + 14336))
    head = 4096 * config.vocab_size
    forward = limits.forward_products(config, 6)
    assert operations(forward) == 2 * 6 * (32 * layer + head)
    assert operations(limits.forward_products(config, 6, head_rows=1, times=3)) == 3 * 2 * (6 * 32 * layer + head)
    assert operations(limits.thin_products(config, 6, 16)) == 2 * 6 * 32 * factors
    assert operations(limits.merge_products(config, 16)) == 2 * 16 * 32 * layer
    attention = operations(limits.attention_products(config, 3, 2))
    assert attention == 2 * 2 * 3 * 32 * 32 * 2 * 1 * 128
    # The gradients take the base's products again, but for the first layer's input; the factors take theirs twice.
    first = 4096 * (4096 + 1024 + 1024)
    whole = 2 * operations(forward) + 2 * 6 * (2 * 32 * factors - first) + 2 * 16 * 32 * layer + 3 * attention
    assert operations(limits.training_products(config, 3, 2, 16)) == whole


def test_a_result_has_its_limit_and_the_share():
    result = limits.with_limit({"ours": 0.5}, limits.Limit(0.4, "moving 1 GB at 2 GB/s"))
    assert result["share"] == 0.8
    assert limit_cells(result) == ("0.4 s: moving 1 GB at 2 GB/s", "80 %")
    assert limit_cells({"ours": 0.5}) == ("–", "–")


def test_files_are_copied_and_digested(tmp_path):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(b"12345" * 1000)
    limit = limits.of_realignment(files, tmp_path / "copy", [Product(2, 3, 4)])
    assert (tmp_path / "copy").read_bytes() == files[-1].read_bytes()
    assert 0 < limit.seconds < 10
    assert re.fullmatch(r"copying 1.*e-05 GB at \S+ GB/s, SHA-256 at \S+ GB/s, products at \d+ GFLOP/s", limit.of)
