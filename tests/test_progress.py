"""Progress on a terminal and elsewhere."""

import io
import sys

import pytest

from nlsr_jax import progress
from nlsr_jax.progress import Stages


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = {"t": 100.0}
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now["t"])
    return now


def to_terminal(monkeypatch):
    """Make standard error a terminal, until the end of the test."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_a_line_now_and_then_shows_the_note_and_the_time_left(capsys, clock):
    with Stages().steps("align dpo", 100, 40) as advance:
        for step, seconds in ((41, 1), (50, 16), (60, 20), (70, 40), (100, 25)):
            clock["t"] = 100.0 + seconds
            advance(step, "" if step == 70 else f"loss 0.{step}")
    assert capsys.readouterr().err.splitlines() == [
        "align dpo: goes on after step 40 of 100",
        "align dpo: step 50 of 100, loss 0.50, 80 s left",
        "align dpo: step 100 of 100, loss 0.100, 0 s left",
    ]


def test_a_terminal_shows_a_bar_with_the_note_and_the_time_left(monkeypatch):
    terminal = to_terminal(monkeypatch)
    with Stages().steps("pretrain", 20) as advance:
        for step in range(1, 21):
            advance(step, "loss 1.2500, 300 tokens/s" if step % 10 == 0 else "")
    text = terminal.getvalue()
    for part in ("pretrain", "20/20", "loss 1.2500, 300 tokens/s", "0:00:00"):
        assert part in text


def test_a_terminal_shows_a_bar_for_tracked_items(monkeypatch):
    terminal = to_terminal(monkeypatch)
    assert list(Stages().track(iter("abc"), "calibration", 3)) == ["a", "b", "c"]
    assert "calibration" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_stages_are_timed_and_printed(capsys, clock):
    stages = Stages()
    for name, seconds in (("read", 1.5), ("write", 2.0), ("read", 0.25)):
        with stages(name):
            clock["t"] += seconds
    stages.say("note: [bold]kept[/bold]")
    assert stages.seconds == {"read": 1.75, "write": 2.0}
    assert capsys.readouterr().err.splitlines() == [
        "read: 1.5 s",
        "write: 2.0 s",
        "read: 1.8 s",
        "note: [bold]kept[/bold]",
    ]
    assert list(stages.track("ab", "calibration", 2)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_silence_is_silent(capsys):
    stages = Stages(show=False)
    with stages("read"), stages.steps("train", 3, 1) as advance:
        advance(2, "loss 1")
        advance(3, "loss 1")
    stages.say("nothing")
    assert list(stages.track("ab", "calibration", 2)) == ["a", "b"]
    assert list(stages.seconds) == ["read"]
    assert capsys.readouterr() == ("", "")
