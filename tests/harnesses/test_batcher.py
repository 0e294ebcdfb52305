"""Requests that arrive one by one share batches with those of the same settings."""

import threading

import pytest

from nlsr_jax.harnesses.batcher import Batcher


def test_requests_with_equal_settings_share_batches():
    seen, begun = [], threading.Event()

    def answer(settings, items):
        begun.wait(10)
        seen.append((settings, list(items)))
        return [(settings, item) for item in items]

    batcher = Batcher(answer, size=3, patience=0.2)
    futures = [batcher.submit(number % 2, number) for number in range(9)]
    begun.set()
    assert [future.result(10) for future in futures] == [(number % 2, number) for number in range(9)]
    assert sorted(seen) == [(0, [0, 2, 4]), (0, [6, 8]), (1, [1, 3, 5]), (1, [7])]
    batcher.close()


def test_an_error_reaches_every_request_of_its_batch_and_no_other():
    def answer(settings, items):
        if settings == "bad":
            raise ValueError("no")
        return items

    batcher = Batcher(answer, size=2, patience=0.05)
    bad, good = [batcher.submit("bad", 1), batcher.submit("bad", 2)], batcher.submit("good", 3)
    for future in bad:
        with pytest.raises(ValueError, match="no"):
            future.result(10)
    assert good.result(10) == 3
    batcher.close()
    assert batcher.submit("good", 4).result(10) == 4  # a new thread
    batcher.close()
    batcher.close()
