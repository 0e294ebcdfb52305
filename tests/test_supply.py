"""What the product promises of its code and of the network: no pickle, no eval, no foreign code, no connection."""

import ast
import pathlib
import re

import pytest

from tests.adapter_files import flags, save_inputs
from tests.e2e.command import ROOT, python

SOURCES = [path for folder in ("nlsr_jax", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
RESTRICTED = ROOT / "experiments" / "bank_pickle.py"
"""Converts the one published file that is a pickle; it accepts arrays, lists and dicts alone."""
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}

OFFLINE = """
import runpy, socket, sys

def refuse(*arguments, **options):
    raise AssertionError(f"the network was touched: {arguments}")

for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind", "listen"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
module, *sys.argv = sys.argv[1:]
sys.argv = [module, *sys.argv]
runpy.run_module(f"experiments.{module}", run_name="__main__")
"""


def names(tree):
    """Imported modules and called names of a program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, "import", alias.name.partition(".")[0]) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, "import", node.module.partition(".")[0]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, "call", node.func.id
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle", "shell"):
            value = node.value.value if isinstance(node.value, ast.Constant) else "unknown"
            yield node.value.lineno, "keyword", (node.arg, value)


def test_there_are_sources():
    assert len(SOURCES) > 150
    assert RESTRICTED in SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_foreign_code_is_run(path):
    peer = path.parent.name == "benchmarks"  # runs torch beside ours
    for line, kind, found in names(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{line}"
        if kind == "import" and not (found == "torch" and peer) and path != RESTRICTED:
            assert found not in FORBIDDEN_IMPORTS, where
        if kind == "call":
            assert found not in FORBIDDEN_CALLS, where
        if kind == "keyword":
            assert found[1] is False, where


def offline(module, *arguments, env=None):
    """Run a program with every connection forbidden."""
    return python("-c", OFFLINE, module, *arguments, check=False, env=env)


def test_local_inputs_touch_no_network(tmp_path):
    files = save_inputs(tmp_path)
    inputs = [*flags(files, "base", "aligned", "finetuned", "weak"), "--calibration", files / "rows.jsonl"]
    found = offline("realign", *inputs, "--output", files / "out")
    assert found.returncode == 0, found.stderr
    assert pathlib.Path(files / "out" / "report.html").exists()


def test_a_hub_id_would_touch_it(tmp_path):
    files = save_inputs(tmp_path)
    adapters = [*flags(files, "aligned", "finetuned"), "--calibration", files / "rows.jsonl"]
    allowed = {"HF_HUB_OFFLINE": "0"}
    found = offline("realign", "--base", "someone/a-model", *adapters, "--output", files / "out", env=allowed)
    assert found.returncode == 1
    assert "error: someone/a-model" in found.stderr
    assert "the network was touched" in found.stderr
    assert not (files / "out").exists()


def test_the_page_asks_for_nothing(tmp_path):
    """What is opened in a browser loads nothing from anywhere."""
    files = save_inputs(tmp_path)
    adapters = flags(files, "aligned", "finetuned")
    found = offline("realign", *adapters, "--method", "magnitude", "--output", files / "out")
    assert found.returncode == 0, found.stderr
    page = (files / "out" / "report.html").read_text(encoding="utf-8")
    for part in ("src=", "<link", "@import", "<script src", "url(http", "fetch("):
        assert part not in page, part


def pins(name):
    """``{package: version}`` of a file of requirements."""
    found = re.findall(r"^([\w.-]+)==([^\s\\;]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {package.lower().replace("_", "-"): version for package, version in found}


def test_the_lock_holds_what_is_required_as_the_tests_run_it_with_hashes():
    locked, tested = pins("requirements.lock"), pins("constraints.txt")
    files = (ROOT / "requirements.txt", *((ROOT / "requirements" / f"{name}.txt") for name in ("data", "study")))
    required = [name for file in files for name in re.findall(r"^[\w-]+", file.read_text(), re.MULTILINE)]
    assert {name.lower() for name in required} <= set(locked)
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}
    entries = re.split(r"\n(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text().strip())
    assert len(entries) == len(locked)
    for entry in entries:
        assert re.fullmatch(r"\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\\n)?)+", entry), entry[:200]
