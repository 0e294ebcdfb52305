"""Progress on a terminal and elsewhere."""

import io
import sys

import pytest

from nlsr_jax.training import progress
from nlsr_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = {"t": 100.0}
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now["t"])
    return now


def test_a_line_now_and_then_says_loss_speed_and_time_left(capsys, clock):
    bar = Progress("align dpo", 100, 40)
    for step, seconds in ((41, 1), (50, 16), (60, 20), (100, 25)):
        clock["t"] = 100.0 + seconds
        bar.advance(step, 500, 0.5)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "align dpo: goes on after step 40 of 100",
        "align dpo: step 50 of 100, loss 0.5000, 62 tokens/s, 80 s left",
        "align dpo: step 100 of 100, loss 0.5000, 80 tokens/s, 0 s left",
    ]


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    bar = Progress("pretrain", 20)
    for step in range(1, 21):
        bar.advance(step, 1000, 1.25 if step % 10 == 0 else None)
    bar.close()
    text = shown.getvalue()
    assert "pretrain" in text
    assert "20/20" in text
    assert "loss 1.2500, " in text
    assert " tokens/s" in text
    assert "0:00:00" in text


def test_silence_is_silent(capsys):
    bar = Progress("train", 3, 1, show=False)
    bar.advance(2, 10, 0.5)
    bar.advance(3, 10, 0.5)
    bar.close()
    assert bar.rate > 0
    assert capsys.readouterr() == ("", "")
