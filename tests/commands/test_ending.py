"""Commands that are told to end, and programs whose parent is no more."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from nlsr_jax.errors import InputError, Interrupted
from nlsr_jax.training.publishing import training_folder
from tests.commands.programs import finish, start
from tests.e2e.command import ROOT

SLEEPS = """
from nlsr_jax.files.output import whole_directory
with whole_directory(arguments[1]) as folder:
    (folder / "half").touch()
    print("ready", flush=True)
    time.sleep(60)
"""
ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def told(process, *numbers, wait=0.0):
    """Send signals to a program once it is ready; returns its status and its lines on standard error."""
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        time.sleep(wait)
    code, _, error = finish(process)
    return code, error.splitlines()


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_ends_a_command_cleanly(tmp_path, number):
    (tmp_path / "place").mkdir()
    found = told(start(tmp_path, SLEEPS, tmp_path / "place" / "out"), number)
    assert found == (128 + number, ["error: interrupted"])
    assert list((tmp_path / "place").iterdir()) == []


def test_several_signals_at_once_are_one(tmp_path):
    body = (
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    time.sleep(0.3)\n    print('tidy')"
    )
    process = start(tmp_path, body)
    assert process.stdout.readline() == "ready\n"
    for number in ENDS:
        process.send_signal(number)
    code, out, error = finish(process)
    assert code in {128 + number for number in ENDS}
    assert (out, error) == ("tidy\n", "error: interrupted\n")


def test_what_ignores_the_end_of_its_terminal_goes_on(tmp_path):
    before = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    process = start(tmp_path, "print('ready', flush=True); time.sleep(60)", before=before)
    assert told(process, signal.SIGHUP, signal.SIGTERM, wait=0.2) == (143, ["error: interrupted"])


@pytest.mark.parametrize(
    "swallows",
    [
        "pass\ntime.sleep(60)",
        "raise ImportError('while it starts')",
        "raise OSError('it is broken') from None",
    ],
)
def test_an_interruption_that_something_swallows_ends_the_command(tmp_path, swallows):
    body = "ending._AGAIN = 0.2\nprint('ready', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n    "
    body += swallows
    assert told(start(tmp_path, body), signal.SIGTERM) == (143, ["error: interrupted"])


def test_a_main_thread_that_never_listens_is_ended(tmp_path):
    """As inside XLA, where Python handles no signal."""
    body = "import hashlib\nending.PATIENCE = 0.2\nprint('ready', flush=True)\n"
    body += "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)"
    began = time.monotonic()
    assert told(start(tmp_path, body), signal.SIGTERM) == (143, ["error: interrupted"])
    assert time.monotonic() - began < 30


def test_training_says_how_to_go_on(tmp_path):
    body = """
    from nlsr_jax.training.publishing import training_folder
    with training_folder(arguments[1]) as work:
        (work / "run.json").touch()
        print("ready", flush=True)
        time.sleep(60)
    """
    code, lines = told(start(tmp_path, body, tmp_path / "out"), signal.SIGTERM)
    assert (code, lines) == (
        143,
        ["error: interrupted; run the same command again to resume from its checkpoint"],
    )


def test_an_interruption_in_training_keeps_its_signal(tmp_path):
    with pytest.raises(InputError) as caught, training_folder(tmp_path / "out"):
        raise Interrupted(signal.SIGTERM)
    assert caught.value.__cause__.number == signal.SIGTERM


def is_alive(process):
    """Whether a process runs: what has ended and was not waited for is none that does."""
    with contextlib.suppress(OSError):
        os.kill(process, 0)
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
        )
        return bool(state.stdout.strip()) and not state.stdout.startswith("Z")
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_programs_end_with_their_parent_however_it_ends(tmp_path, number):
    command = [sys.executable, "-m", "tests.commands.sleeper", str(tmp_path), "2"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as top:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        programs = [int(path.name) for path in tmp_path.iterdir()]
        assert len(programs) == 7
        top.send_signal(number)
        _, error = top.communicate(timeout=60)
        assert top.returncode == (-9 if number == signal.SIGKILL else 143)
        assert error == ("" if number == signal.SIGKILL else "error: interrupted\n")
    while any(map(is_alive, programs)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, programs))


def test_programs_that_end_by_themselves_give_their_statuses(tmp_path):
    body = """
    statuses = ending.run_tied([[sys.executable, "-c", f"raise SystemExit({code})"] for code in (0, 3)])
    print(statuses)
    """
    assert finish(start(tmp_path, body)) == (0, "[0, 3]\n", "")


def test_a_stale_tie_is_no_parent(tmp_path):
    for stale in ("7777", "x", "0"):
        body = "print(ending.is_child(), ending._TIE in os.environ)"
        assert finish(start(tmp_path, body, env={"NLSR_JAX_TIED_TO": stale}, stdin=subprocess.DEVNULL)) == (
            0,
            "False False\n",
            "",
        )
