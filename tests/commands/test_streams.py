"""What reads a command's output may go away or be closed: the command does its work all the same."""

import os
import threading

import pytest

from nlsr_jax.commands.streams import Stream
from tests.adapter_files import flags, save_family
from tests.commands.programs import COMPILED, finish, start
from tests.e2e.command import ROOT

PRINTS = """
import contextlib
from rich.console import Console
shown = Console(stderr=True)
for i in range(2000):
    print("result", i, flush=True)
    print("stage", i, file=sys.stderr)
    shown.print("stage", i)
with open(arguments[1], "w") as file:
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.write(number, b"from a library in C\\n")
    file.write("whole")
"""


def redirected(tmp_path, body, redirection):
    """Run a program under a redirection of the shell; returns its status, its file, and what is left to be seen."""
    shell = f'{{ "$@" ; echo $? > {tmp_path}/status ; }} {redirection}'
    _, _, error = finish(start(tmp_path, body, tmp_path / "file", before=["sh", "-c", shell, "sh"]))
    file = tmp_path / "file"
    return int((tmp_path / "status").read_text()), file.read_text() if file.exists() else None, error


@pytest.mark.parametrize(
    "redirection",
    [
        "| head -n 0",
        "2>&1 | head -n 1",
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        "2>/dev/full",
    ],
)
def test_nobody_who_reads_is_no_reason_to_end(tmp_path, redirection):
    status, file, error = redirected(tmp_path, PRINTS, redirection)
    assert (status, file) == (0, "whole")
    assert "Traceback" not in error
    assert "rror" not in error


def test_a_full_disk_behind_standard_output_is_said_at_the_end(tmp_path):
    status, file, error = redirected(tmp_path, PRINTS, ">/dev/full")
    assert (status, file) == (1, "whole")
    assert error.splitlines()[-1].startswith("error: standard output: No space left on device; what was printed is")


@pytest.mark.parametrize("redirection", ["| head -n 0", ">&-", "2>&-"])
def test_an_error_keeps_its_status(tmp_path, redirection):
    body = "print('some'); sys.stdout.flush(); raise OSError('it is broken')"
    assert redirected(tmp_path, body, redirection)[0] == 1


def test_a_warning_that_cannot_be_shown_is_not_shown(tmp_path):
    body = (
        PRINTS + "\nfrom absl import logging\nlogging.warning('beware')\nimport warnings\nwarnings.warn('beware')"
    )
    for redirection in ("2>&-", "2>&1 >/dev/null | head -n 1"):
        assert redirected(tmp_path, body, redirection)[:2] == (0, "whole")


def test_a_warning_is_shown_once(tmp_path):
    code, _, error = finish(start(tmp_path, "from absl import logging; logging.warning('beware')"))
    assert (code, error.count("beware")) == (0, 1)


def test_unbuffered_output_comes_at_once(tmp_path):
    process = start(tmp_path, "print('now'); time.sleep(60)", env={"PYTHONUNBUFFERED": "1"})
    assert process.stdout.readline() == "now\n"
    process.kill()
    finish(process)


def test_letters_that_the_locale_lacks_are_escaped(tmp_path):
    body = "print('\\u03b2'); print('\\u03b2', file=sys.stderr)"
    code, out, error = finish(start(tmp_path, body, env={"PYTHONIOENCODING": "ascii"}))
    assert (code, out, error) == (0, "\\u03b2\n", "\\u03b2\n")


def test_a_pipe_that_does_not_wait_gets_everything():
    read, write = os.pipe()
    os.set_blocking(write, False)
    found = []

    def read_all():
        with os.fdopen(read, "rb") as file:
            found.append(file.read())

    reader = threading.Thread(target=read_all)
    reader.start()
    with Stream(write) as stream:
        assert stream.write(bytes(10**6)) == 10**6
        assert stream.failure is None
    os.close(write)
    reader.join()
    assert found == [bytes(10**6)]


def test_a_run_goes_on_when_its_progress_has_no_reader(tmp_path):
    """The case of the field: ``realign … 2>&1 >/dev/null | head -n 1`` gave the whole run up."""
    save_family(tmp_path)
    given = [*flags(tmp_path, "aligned", "finetuned"), "--method", "magnitude", "--output", tmp_path / "out"]
    body = f"""
    import runpy
    sys.argv = {["realign", *map(str, given)]!r}
    runpy.run_path({str(ROOT / "nlsr_jax" / "commands" / "realign.py")!r}, run_name="__main__")
    """
    program = tmp_path / "program"
    program.mkdir()
    shell = f'{{ "$@" ; echo $? > {tmp_path}/status ; }} 2>&1 >/dev/null | head -n 1'
    process = start(program, body, before=["sh", "-c", shell, "sh"], env=COMPILED)
    _, out, _ = finish(process)
    assert out.startswith("read adapters")
    assert (tmp_path / "status").read_text() == "0\n"
    assert (tmp_path / "out" / "report.html").exists()
