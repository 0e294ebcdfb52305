"""The way of the settings through one realignment, from the command to the written file, by the code's own calls.

A stop is a call that hands the settings of a run, or a part of them, to a function of the package. All branches
count, except those of runs of another kind; see ``WAYS``. A function that is called twice counts twice. A climb is
a stop in a file that imports the one that it is called from: the way then runs up. Nothing is run: what is read is
the syntax tree, imports and annotations.

  python -m tests.house.walk
"""

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = "nlsr_jax"
SETTINGS = ("nlsr_jax.nlsr.settings", "nlsr_jax.pipeline.settings")
"""Modules whose dataclasses are settings."""
ENTRY = ("nlsr_jax.commands.realign", "main")
WAYS = {
    "adapters": frozenset({"realign_weights", "open_lifted"}),
    "lifted adapters": frozenset({"realign_weights", "open_sources"}),
    "full models": frozenset({"_checked", "_open", "_decide", "settle", "obtain_masks", "record_realignment"}),
}
"""What a run may realign, and the functions of ``realign_files`` that only runs of another kind call."""


class Stop(NamedTuple):
    """A function that receives settings, and the one that hands them over."""

    module: str
    function: str
    caller: str


@dataclasses.dataclass(frozen=True)
class Module:
    """One file: its functions and classes by name, and where its imported names come from."""

    defined: dict[str, ast.FunctionDef | ast.ClassDef]
    imported: dict[str, tuple[str, str]]


@functools.cache
def module(name: str) -> Module:
    """Read one module of the package."""
    path = ROOT / (name.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text())
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = {
        alias.asname or alias.name: (_home(node.module or "", alias.name), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
        for alias in node.names
    }
    return Module(defined, imported)


def _home(package: str, name: str) -> str:
    """The module that defines a name, behind a package that hands it on."""
    path = ROOT / package.replace(".", "/")
    if not path.is_dir():
        return package
    for node in ast.walk(ast.parse((path / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return node.module or package
    return f"{package}.{name}"


@functools.cache
def setting_types() -> frozenset[str]:
    """Return the names of all classes of settings."""
    return frozenset(
        name for one in SETTINGS for name, node in module(one).defined.items() if isinstance(node, ast.ClassDef)
    )


def _is_settings(annotation: ast.expr | None) -> bool:
    return annotation is not None and any(
        isinstance(node, ast.Name) and node.id in setting_types() for node in ast.walk(annotation)
    )


def _function(where: str, name: str) -> ast.FunctionDef | None:
    """The function of a name, of a class its ``__init__``; None of what is neither."""
    found = module(where).defined.get(name)
    if isinstance(found, ast.ClassDef):
        members = (node for node in found.body if isinstance(node, ast.FunctionDef))
        return next((node for node in members if node.name == "__init__"), None)
    return found


def _resolve(where: str, name: str) -> tuple[str, str] | None:
    if name in module(where).defined:
        return where, name
    return module(where).imported.get(name)


def _handed(function: ast.FunctionDef, where: str) -> Iterator[tuple[str, str]]:
    """Yield what a function hands its settings to, in the order of the code."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    held = {one.arg for one in arguments if one.arg == "settings" or _is_settings(one.annotation)}
    nodes = sorted((node for node in ast.walk(function) if hasattr(node, "lineno")), key=lambda node: node.lineno)
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            held |= _made(node, where)
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        names = [one.id for one in given if isinstance(one, ast.Name)]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "partial" and names:
            called, names = names[0], names[1:]
        elif isinstance(node.func, ast.Name):
            called = node.func.id
        else:
            continue
        found = _resolve(where, called)
        if found is not None and held & set(names):
            yield found


def _made(node: ast.Assign, where: str) -> set[str]:
    """The names that an assignment gives settings to: what it calls returns them, or makes them."""
    assert isinstance(node.value, ast.Call)
    called = node.value.func.id if isinstance(node.value.func, ast.Name) else ""
    found = _resolve(where, called)
    function = None if found is None else _function(*found)
    made = called in setting_types() or (function is not None and _is_settings(function.returns))
    (target,) = node.targets
    first = target.elts[0] if isinstance(target, ast.Tuple) else target
    return {first.id} if made and isinstance(first, ast.Name) else set()


def walk(kind: str = "adapters", entry: tuple[str, str] = ENTRY) -> list[Stop]:
    """Return the stops of a way, one of ``WAYS``, in the order of the code, each function followed once."""
    stops: list[Stop] = []
    followed: set[tuple[str, str]] = set()

    def follow(where: str, name: str) -> None:
        function = _function(where, name)
        if function is None or (where, name) in followed:
            return
        followed.add((where, name))
        for there, called in _handed(function, where):
            if called not in WAYS[kind] and _function(there, called) is not None:
                stops.append(Stop(there, called, where))
                follow(there, called)

    follow(*entry)
    return stops


def climbs(stops: list[Stop]) -> list[Stop]:
    """Return the stops that lie above the file that they are called from."""
    return [
        stop for stop in stops if stop.caller in _imports(stop.module) and stop.module not in _imports(stop.caller)
    ]


def _imports(name: str) -> set[str]:
    return {source for source, _ in module(name).imported.values()} - {name}


if __name__ == "__main__":
    for kind in WAYS:
        found = walk(kind)
        for stop in found:
            print(f"{stop.module}: {stop.function}")
        files = len({stop.module for stop in found})
        print(f"{kind}: {len(found)} stops in {files} files, {len(climbs(found))} climbs")
