"""The house of the code: the floors that docs/house.md lists, and the imports that stand in the sources.

``problems`` compares the two. Every import counts: those in functions, those for type checkers alone, and those of
``lazily`` and ``import_module``, which name modules in strings. A program that is started is not imported.
"""

import ast
import collections
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

PACKAGES = ("nlsr_jax", "experiments")
WHOLE = ("experiments",)
"""Packages that are one room. The rooms of the others are their packages and modules."""
_IMPORTERS = ("lazily", "import_module")
_ROW = re.compile(r"^\| (\d+) \| `([\w.]+)` \| (.+) \|$", re.MULTILINE)
_STOP = re.compile(r"^\d+\. `([\w.]+):([\w.]+)`", re.MULTILINE)


class Room(NamedTuple):
    """A row of the page: floors count from 1, the lowest."""

    floor: int
    name: str
    purpose: str


class Import(NamedTuple):
    """A module that names another one."""

    module: str
    imported: str
    line: int


def read_rooms(text: str) -> list[Room]:
    """Return the rows of the page's table, in its order."""
    return [Room(int(floor), name, purpose) for floor, name, purpose in _ROW.findall(text)]


def read_stops(text: str) -> list[tuple[str, str]]:
    """Return ``(module, function)`` of the numbered path of the page."""
    return _STOP.findall(text)


def modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return ``{full name: file}`` of all modules of the packages under ``root``."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if any(folder.is_symlink() for folder in path.parents):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """Return the name of the room in which a module stands."""
    package, _, rest = module.partition(".")
    return package if package in WHOLE or not rest else f"{package}.{rest.partition('.')[0]}"


def imports(known: Mapping[str, pathlib.Path]) -> Iterator[Import]:
    """Yield every import between modules.

    Args:
      known: ``{full name: file}`` as ``modules`` returns it.
    """
    for module, path in known.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _named(node, package, known):
                if name in known and name != module:
                    yield Import(module, name, node.lineno)


def _named(node: ast.AST, package: str, known: Mapping[str, pathlib.Path]) -> list[str]:
    """Full names of the modules that a node may name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = package.rsplit(".", node.level - 1)[0] if node.level else ""
        source = ".".join(part for part in (start, node.module) if part)
        inner = [f"{source}.{alias.name}" for alias in node.names]
        return [name if name in known else source for name in inner]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _IMPORTERS:
        constants = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
        return [value for value in constants if isinstance(value, str)]
    return []


def problems(rooms: Iterable[Room], known: Mapping[str, pathlib.Path]) -> list[str]:
    """Return what of the sources is not as the page says.

    Args:
      rooms: what the page lists.
      known: ``{full name: file}`` as ``modules`` returns it.

    Returns:
      One line each: a room that the page lacks, lists twice or invents, an import that leads up or to another room
      of the same floor, and a circle of modules.
    """
    rooms, found = list(rooms), list(imports(known))
    floors = {room.name: room.floor for room in rooms}
    counts = collections.Counter(room.name for room in rooms)
    there = {room_of(module) for module in known}
    return [
        *(f"{name} stands on no floor" for name in sorted(there - set(counts))),
        *(f"{name} stands on a floor, and not in the sources" for name in sorted(set(counts) - there)),
        *(f"{name} stands on {count} floors" for name, count in sorted(counts.items()) if count > 1),
        *(text for one in found if (text := _led_wrong(one, floors))),
        *(f"circle: {' -> '.join(circle)}" for circle in _circles(found)),
    ]


def _led_wrong(one: Import, floors: Mapping[str, int]) -> str | None:
    """Say where an import leads that does not lead down."""
    above, below = room_of(one.module), room_of(one.imported)
    if above == below or above not in floors or below not in floors or floors[above] > floors[below]:
        return None
    where = "the same floor" if floors[above] == floors[below] else "a higher floor"
    return f"{one.module}:{one.line} imports {one.imported} on {where}"


def _circles(found: Iterable[Import]) -> Iterator[list[str]]:
    """Yield a circle of modules for every set of modules that import one another."""
    edges = collections.defaultdict(set)
    for one in found:
        edges[one.module].add(one.imported)
    done: set[str] = set()
    for module in sorted(edges):
        if module not in done and (circle := _way_back(module, edges)):
            yield circle
            done.update(circle)


def _way_back(start: str, edges: Mapping[str, set[str]]) -> list[str] | None:
    """Return the shortest way from a module to itself."""
    before: dict[str, str] = {}
    waiting = collections.deque([start])
    while waiting:
        module = waiting.popleft()
        for following in sorted(edges.get(module, ())):
            if following == start:
                way = [module]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return [*reversed(way), start]
            if following not in before:
                before[following] = module
                waiting.append(following)
    return None
