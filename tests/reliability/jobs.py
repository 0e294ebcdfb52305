"""The commands that are killed, starved and varied by these tests, on the smallest inputs that go all their way."""

import hashlib
import json
import os
import pathlib
import subprocess
from typing import NamedTuple

from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import flags, save_family
from tests.e2e.command import ROOT, start
from tests.e2e.forks import Forked
from tests.e2e.toy_base import QUICK, save_toy_base

COMPILED = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
"""What makes commands keep what they have compiled, where JAX_COMPILATION_CACHE_DIR says."""
_RECORDS = ("realignment.json", "identification.json")
# A study with little to train and to ask; Python imports this module by itself where it is on its path.
_SMALL = """
import dataclasses
from nlsr_jax import configs
from tests.study.small_study import small_config

small = small_config()
small = dataclasses.replace(small, exam=dataclasses.replace(small.exam, forbidden=7, benign=2, rows=3))
configs.get = lambda name: small
"""


class Job(NamedTuple):
    """A command without its ``--output``.

    Attributes:
      name: of the program.
      arguments: its flags.
      env: what its environment has beside this process's.
      trains: it keeps ``OUTPUT.training`` beside its output, and goes on from there.
      grows: its output is a folder of rows that is there while it runs, and that it goes on with.
    """

    name: str
    arguments: tuple
    env: dict[str, str]
    trains: bool = False
    grows: bool = False

    def start(self, output: pathlib.Path, *more, prefix=(), env=None) -> subprocess.Popen | Forked:
        """Start the command behind ``prefix``; its standard error is a pipe."""
        given = ["-m", f"experiments.{self.name}", *map(str, (*self.arguments, *more, "--output", output))]
        return start(given, {**self.env, **(env or {})}, prefix)


def make_jobs(folder: pathlib.Path, names=("realign", "identify", "align", "finetune", "sweep")) -> dict[str, Job]:
    """Make the inputs of commands in ``folder``; returns the commands by their names."""
    env = {**QUICK, **COMPILED}
    env["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    save_family(folder)
    base = ["--base", save_toy_base(folder / "base"), "--batch_size", 4, "--save_every", 2]
    rows = ["--rows", 24, "--epochs", 1, "--learning_rate", 1e-3]
    lora = ["--objective", "sft", "--rank", 2, "--modules", "q_proj"]
    jobs = {
        "realign": Job("realign", (*flags(folder, "aligned", "finetuned"), "--method", "magnitude"), env),
        "identify": Job("identify", (*flags(folder, "aligned"), "--method", "magnitude"), env),
        "align": Job("align", (*base, *rows, *lora), env, trains=True),
        "finetune": Job("finetune", (*base, *rows, "--start", folder / "start"), env, trains=True),
        "sweep": Job("sweep", ("--base", folder / "base", "--cells", folder / "cells.json"), env, grows=True),
    }
    if "finetune" in names:
        finish(jobs["align"].start(folder / "start"))
    if "sweep" in names:
        (folder / "study").mkdir()
        (folder / "study" / "sitecustomize.py").write_text(_SMALL)
        path = os.pathsep.join([str(folder / "study"), str(ROOT)])
        jobs["sweep"] = jobs["sweep"]._replace(env={**env, "PYTHONPATH": path})
        thresholds = [{"rule": "threshold", "tau": i / 16, "draws": 1} for i in range(16)]
        cells = [{"method": "nlsr", "settings": settings, "seed": 3} for settings in thresholds]
        (folder / "cells.json").write_text(json.dumps(cells))
    return {name: jobs[name] for name in names}


def finish(process: subprocess.Popen | Forked) -> str:
    """Wait for a command that has to succeed; returns what it printed on standard error."""
    _, text = process.communicate(timeout=1200)
    assert process.returncode == 0, text
    return text


def refusal(process: subprocess.Popen | Forked) -> str:
    """Wait for a command that has to fail; returns the one line that says why."""
    _, text = process.communicate(timeout=1200)
    assert process.returncode == 1, text
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    return lines[0]


def fingerprint(output: pathlib.Path) -> dict[str, str]:
    """SHA-256 of all files of an output but for what states the time of the run, after checking these otherwise.

    Left out are a record and Orbax's checkpoint, which hold times, where every file is as the record says; the
    times in ``metrics.jsonl``; the order of ``rows.jsonl``, and what a killed run left of a line in it.
    """
    there = sorted(path for path in output.rglob("*") if path.is_file() and path.name != ".lock")
    files = {path.relative_to(output).as_posix(): path.read_bytes() for path in there}
    if any(name in files for name in _RECORDS):
        found = verify(output)
        assert not found.changed, found
        files = {name: data for name, data in files.items() if name not in _RECORDS and "checkpoint/" not in name}
    if "metrics.jsonl" in files:
        files["metrics.jsonl"] = _timeless(files["metrics.jsonl"])
    if "rows.jsonl" in files:
        files["rows.jsonl"] = b"".join(sorted(whole_rows(files["rows.jsonl"])))
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _timeless(metrics: bytes) -> bytes:
    lines = [json.loads(line) for line in metrics.splitlines()]
    return json.dumps([{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]).encode()


def whole_rows(data: bytes) -> set[bytes]:
    """Return the lines of ``rows.jsonl`` that are whole."""
    return {line for line in data.splitlines() if line.startswith(b"{") and line.endswith(b"}") and _is_json(line)}


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
