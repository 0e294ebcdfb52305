"""The names of ``nlsr_jax``, which are imported when they are asked for."""

import ast
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import benchmarks
import experiments
import nlsr_jax


def test_every_name_is_what_type_checkers_are_told():
    told = {}
    tree = ast.parse(pathlib.Path(nlsr_jax.__file__).read_text(encoding="utf-8"))
    (checking,) = [node for node in tree.body if isinstance(node, ast.If)]
    for node in checking.body:
        told |= {name.name: node.module for name in node.names}
    assert set(told) == set(nlsr_jax.__all__)
    for name, module in told.items():
        assert getattr(nlsr_jax, name) is getattr(sys.modules[module], name)
        assert name in dir(nlsr_jax)


def test_what_is_not_there():
    for name in ("nothing", "_nothing", "__nothing__"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(nlsr_jax, name)


@pytest.mark.parametrize(
    ("statement", "others"),
    [
        ("import nlsr_jax; nlsr_jax.errors.InputError", ("jax", "numpy")),
        ("import nlsr_jax.report", ("jax", "matplotlib")),
        ("import nlsr_jax.pipeline", ("flax", "transformers", "matplotlib")),
        ("import nlsr_jax; nlsr_jax.parallel.make_mesh", ("flax",)),
        ("from nlsr_jax import *; amplify, Adapter, generate", ("transformers",)),
    ],
)
def test_who_needs_no_model_waits_for_none_of_its_libraries(statement, others):
    check = f"import sys\n{statement}\nprint(sorted(set(sys.modules) & set({others})))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


def test_no_name_is_a_modules():
    modules = {module.name for module in pkgutil.iter_modules(nlsr_jax.__path__)}
    assert not modules & set(nlsr_jax.__all__)


UNTYPED_ROOMS = ("architecture", "formats", "models")
"""Rooms in which some public signatures still lack types."""


def untyped(path):
    """Public functions of a module, and public methods of its public classes, whose signature lacks a type."""
    waiting = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        for node in waiting.pop().body:
            named = getattr(node, "name", "_")
            if isinstance(node, ast.ClassDef) and not named.startswith("_"):
                waiting.append(node)
            if isinstance(node, ast.FunctionDef) and (not named.startswith("_") or named.startswith("__")):
                given = node.args
                given = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                lacking = [a.arg for a in given if a and not a.annotation and a.arg not in ("self", "cls", "_")]
                if lacking or (node.returns is None and named != "__init__"):
                    yield f"{path.name}: {named}"


def test_public_signatures_are_typed():
    folders = [pathlib.Path(package.__file__).parent for package in (nlsr_jax, experiments)]
    paths = [path for folder in folders for path in folder.rglob("*.py") if path.parent.name not in UNTYPED_ROOMS]
    assert len(paths) > 200
    assert [found for path in paths for found in untyped(path)] == []


def test_a_signature_without_types_is_found(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        "class A:\n    def b(self, c) -> None: ...\ndef d(e: int): ...\ndef _f(g): ...\ndef h() -> int: ..."
    )
    assert sorted(untyped(path)) == ["file.py: b", "file.py: d"]


_IMPORT = """
import importlib, os, sys
import flax.linen, jax, matplotlib, optax, orbax.checkpoint, safetensors.numpy, transformers
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except SystemExit:
            pass
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    failed += [name] if os.waitpid(child, 0)[1] else []
print(failed)
"""


def test_every_module_can_be_the_first_to_be_imported():
    names = [
        found.name
        for package in (nlsr_jax, experiments, benchmarks)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not found.name.endswith("__main__")
    ]
    assert len(names) > 200
    done = subprocess.run([sys.executable, "-c", _IMPORT, *names], capture_output=True, text=True, timeout=600)
    assert done.stdout == "[]\n", done.stderr
