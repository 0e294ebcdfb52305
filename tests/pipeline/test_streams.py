"""The threads that read ahead and write behind, and what chunks give put together."""

import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import Adapter
from nlsr_jax.pipeline.chunks import Chunk, ahead, behind, chunks, join


def test_chunks_are_the_single_layers_in_order():
    factors = {
        "v_proj": {"a": np.zeros((2, 1, 3)), "b": np.zeros((2, 3, 1))},
        "q_proj": {"a": np.zeros((1, 1, 3)), "b": np.zeros((1, 3, 1))},
    }
    found = list(chunks(Adapter(factors)))
    assert found == [Chunk("q_proj", slice(0, 1)), Chunk("v_proj", slice(0, 1)), Chunk("v_proj", slice(1, 2))]


def test_ahead_reads_one_chunk_further_than_is_worked_on():
    read, worked = [], []
    wanted = [Chunk("q_proj", slice(i, i + 1)) for i in range(5)]
    for chunk, value in ahead(wanted, lambda chunk: read.append(chunk) or chunk.rows.start):
        while len(read) < min(len(wanted), len(worked) + 2):
            time.sleep(0.001)  # the thread is on its way
        assert len(read) <= len(worked) + 2
        worked.append((chunk, value))
    assert worked == [(chunk, i) for i, chunk in enumerate(wanted)]


def test_an_error_while_reading_ahead_is_raised():
    def read(chunk):
        raise OSError(5, "bad", str(chunk))

    with pytest.raises(OSError, match="bad"):
        list(ahead([Chunk("q_proj", slice(0, 1))], read))


def test_calls_behind_run_in_order_in_one_other_thread():
    found = []
    with behind() as later:
        for i in range(20):
            later(lambda i: found.append((i, threading.get_ident())), i)
    assert [i for i, _ in found] == list(range(20))
    assert len({thread for _, thread in found} | {threading.get_ident()}) == 2


def test_at_most_two_calls_wait_behind():
    started, go = [], threading.Event()

    def slow(i):
        started.append(i)
        go.wait(10)

    def open_the_gate():
        while not started:
            time.sleep(0.001)
        time.sleep(0.05)
        go.set()

    opener = threading.Thread(target=open_the_gate)
    opener.start()
    with behind() as later:
        for i in range(4):
            later(slow, i)
            # The third call had to wait for the gate, through which the first went.
            assert go.is_set() == (i >= 2)
    opener.join()
    assert started == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 6])
def test_an_error_of_a_call_behind_is_raised(count):
    def fail():
        raise OSError(28, "full")

    def call():
        with behind() as later:
            for _ in range(count):
                later(fail)

    with pytest.raises(OSError, match="full"):
        call()


def test_join_puts_layers_together_by_module():
    parts = [
        {"q_proj": {"x": jnp.array([1.0]), "y": {"a": np.array([True])}}},
        {"q_proj": {"x": jnp.array([2.0, 3.0]), "y": {"a": np.array([False, True])}}},
        {"v_proj": {"x": jnp.array([4.0]), "y": {"a": np.array([True])}}},
    ]
    found = join(iter(parts))
    assert set(found) == {"q_proj", "v_proj"}
    np.testing.assert_array_equal(found["q_proj"]["x"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(found["q_proj"]["y"]["a"], [True, False, True])
    np.testing.assert_array_equal(found["v_proj"]["x"], [4.0])
    assert isinstance(found["v_proj"]["x"], np.ndarray)
    assert join(iter([])) == {}
