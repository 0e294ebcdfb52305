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
from tests.e2e.command import python


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
    paths = [path for folder in folders for path in folder.rglob("*.py")]
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
failed = []
for name in sys.argv[2:]:
    child = os.fork() if sys.argv[1] == "apart" else 0
    if not child:
        try:
            importlib.import_module(name)
        except SystemExit:
            pass
        except ModuleNotFoundError as error:
            if error.name not in ("lm_eval", "inspect_ai"):  # libraries of extras
                raise
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        if sys.argv[1] == "apart":
            os._exit(0)
    elif os.waitpid(child, 0)[1]:
        failed.append(name)
print(failed)
"""


def imports_at_once(name, path, known):
    """Modules of ours that a module needs as it is imported, with their packages.

    Its own packages, which Python has begun to import before, are needed only where something of theirs is named.
    """
    found = set()
    waiting = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if inner <= known else {node.module, *inner}
        elif not isinstance(node, (ast.FunctionDef, ast.Lambda)) and not checks_types(node):
            waiting += ast.iter_child_nodes(node)
    packages = {one.rsplit(".", i)[0] for one in found for i in range(1, one.count(".") + 1)}
    begun = {name.rsplit(".", i)[0] for i in range(name.count(".") + 1)}
    return ((found | packages - begun) & known) - {name}


def checks_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def first_in_a_circle(graph):
    """A module that leads back to itself, None where there is none."""
    left = dict(graph)
    while ready := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ready:
            del left[name]
    return min(left, default=None)


def test_every_module_can_be_the_first_to_be_imported():
    """Where imports make no circle and each module finds what it names, the order does not matter.

    Modules of commands define flags, of which a process takes one set: they have processes of their own.
    """
    paths = {}
    for package in (nlsr_jax, experiments, benchmarks):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            inside = pathlib.Path(found.module_finder.path, found.name.rpartition(".")[2])
            paths[found.name] = inside / "__init__.py" if found.ispkg else inside.with_suffix(".py")
        paths[package.__name__] = pathlib.Path(package.__file__)
    assert len(paths) > 200
    graph = {name: imports_at_once(name, path, paths.keys()) for name, path in paths.items()}
    assert first_in_a_circle(graph) is None
    names = sorted(name for name in paths if not name.endswith("__main__"))
    flagged = [name for name in names if name.startswith(("nlsr_jax.commands", "experiments"))]
    for kind, some in (("together", sorted({*names} - {*flagged})), ("apart", flagged)):
        assert python("-c", _IMPORT, kind, *some).stdout == "[]\n", kind


def test_a_circle_is_found():
    assert first_in_a_circle({"a": {"b"}, "b": set(), "c": {"a"}}) is None
    assert first_in_a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == "a"
