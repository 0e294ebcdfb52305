"""Read the item parameters of ``tinyBenchmarks.pkl`` without running anything that a pickle may hold.

For ``experiments.convert_item_bank`` alone; the installed package opens no pickle. Python's own unpickler runs,
with plain classes in place of the few names that NumPy arrays need. It refuses every other name, so that no code of
NumPy or of the file runs. It is the unpickler written in Python, because the one in C allocates memory for as many
entries as a file claims to have.
"""

import io
import os
import pathlib
import pickle
import re
from typing import Any

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.item_bank import ItemBank, check_bank
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import expand

_PLAIN = re.compile(r"[biuf][1248]|[US]\d{1,4}")
PARTS = ("lb", "mmlu")
"""The parts that hold the six benchmarks: all six together, and MMLU with its own model and items."""
_LARGEST = 2**28  # entries of one array; the published file's largest has some 300,000
_MOST_SCENARIOS = 1000


class _Type:
    """The NumPy type that the file describes."""

    def __init__(self, code: Any = None, *ignored):
        self.code, self.order = code, "="

    def __setstate__(self, state):
        self.order = state[1] if state[1] in ("<", ">", "=") else "="

    def plain(self) -> np.dtype:
        if not isinstance(self.code, str) or not _PLAIN.fullmatch(self.code):
            raise pickle.UnpicklingError(f"an array of type {str(self.code)[:20] if _plain(self.code) else '?'}")
        return np.dtype(self.order + self.code)


class _Array:
    """The array that the file describes; ``value`` is set with its state."""

    def __init__(self, *ignored):
        self.value: Any = None

    def __setstate__(self, state):
        shape, kind, fortran, data = state[-4:]
        if isinstance(data, list):  # an array of objects: lists of unlike lengths
            self.value = data
        else:
            self.value = _filled(data, kind, shape, "F" if fortran else "C")


def _filled(data, kind, shape, order="C") -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray) or len(data) > 8 * _LARGEST:
        raise pickle.UnpicklingError("an array without plain data")
    return np.frombuffer(bytes(data), kind.plain()).reshape(shape, order=order)


def _from_buffer(data, kind, shape, order="C"):
    array = _Array()
    array.value = _filled(data, kind, shape, "F" if order == "F" else "C")
    return array


def _scalar(kind, data):
    return _filled(data, kind, ()).item()


def _text_bytes(text, encoding):
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("text that is not in latin1")
    return text.encode("latin1")


class _Call:
    """A function that a pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a function that would be changed")


_FUNCTIONS = {
    ("multiarray", "_reconstruct"): _Array,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _text_bytes,
}


def _plain(value) -> bool:
    return value is None or isinstance(value, str | bytes | int | float)


def _is_key(value) -> bool:
    """Say whether a key hashes quickly; nested tuples that share their parts take exponential time."""
    return _plain(value) or (isinstance(value, tuple) and all(map(_plain, value)))


_Machine: Any = pickle._Unpickler
_REFUSED = b"".join(
    [
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
        *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ]
)
"""Opcodes that a pickle of arrays, lists and dicts does not need."""


class _Reader(_Machine):
    """An unpickler that accepts NumPy arrays, lists and dicts alone."""

    def _checked(self, load, items):
        if not all(map(_is_key, items)):
            raise pickle.UnpicklingError("a dict with keys that are not plain")
        load(self)

    def load_setitem(self):
        self._checked(_Machine.load_setitem, self.stack[-2:-1])

    def load_setitems(self):
        self._checked(_Machine.load_setitems, self.stack[::2])

    def load_dict(self):
        self._checked(_Machine.load_dict, self.stack[::2])

    def refuse(self):
        raise pickle.UnpicklingError("a set, an object or a reference to another file")

    dispatch = _Machine.dispatch | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        **dict.fromkeys(_REFUSED, refuse),
    }

    def find_class(self, module, name):
        core = re.fullmatch(r"numpy\._?core\.(multiarray|numeric)", module)
        function = _FUNCTIONS.get((core.group(1) if core else module, name))
        if function is None or (not core and module not in ("numpy", "_codecs")):
            raise pickle.UnpicklingError(f"{module}.{name}, which is neither an array, a list nor a dict")
        return _Call(function)


def _read(path: pathlib.Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(LIMITS.bank_bytes + 1)
        if len(data) > LIMITS.bank_bytes:
            raise pickle.UnpicklingError(f"more than {LIMITS.bank_bytes} bytes")
        return _Reader(io.BytesIO(data)).load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected tinyBenchmarks.pkl") from None
    except Exception as error:  # damaged pickles raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: refused or damaged; it holds {reason}") from error


def read_pickle(path: str | os.PathLike) -> dict[str, ItemBank]:
    """Read those of the parts ``"lb"`` and ``"mmlu"`` that ``tinyBenchmarks.pkl`` holds.

    Args:
      path: the file that the tinyBenchmarks package downloads.

    Returns:
      ``{part: ItemBank}``, for ``save_banks``.

    Raises:
      InputError: a file that is missing, damaged, or holds anything but arrays, lists and dicts; one with neither
        part; parameters that do not fit one another.
    """
    tree = _read(expand(path))
    names = [name for name in PARTS if isinstance(tree, dict) and name in tree] or [PARTS[0]]
    return {name: _part(tree, name, str(path)) for name in names}


def _part(tree, bench: str, path: str) -> ItemBank:
    where = f"{path}: {bench}"
    if not isinstance(tree, dict) or not isinstance(tree.get(bench), dict):
        found = ", ".join(map(str, tree)) if isinstance(tree, dict) else "no dict"
        raise InputError(f"{where}: not there; the file holds {found[:200]}")
    try:
        bank = _bank(tree[bench])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: not laid out as tinyBenchmarks' ({type(error).__name__}: {error})") from error
    check_bank(bank, where)
    return bank


def _bank(part: dict) -> ItemBank:
    a, b = (_matrix(part["irt_parameters"][name]) for name in "AB")
    names = tuple(part["scenarios_position"])
    parts = [items for name in names for items in part["subscenarios_position"][name].values()]
    if len(names) > _MOST_SCENARIOS or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{len(names)} scenarios, or names that are not text")
    for lists in (list(part["scenarios_position"].values()), parts):
        if sum(len(_value(items)) for items in lists) > a.shape[1]:
            raise ValueError("an item of two scenarios or two subscenarios")
    scenario, subscenario = np.full(a.shape[1], -1), np.full(a.shape[1], -1)
    for i, name in enumerate(names):
        scenario[_vector(part["scenarios_position"][name], int)] = i
    for i, items in enumerate(parts):
        subscenario[_vector(items, int)] = i
    if (subscenario < 0).any():
        raise ValueError("an item without a subscenario")
    anchors = _vector(part["seen_examples"], int)
    weights = np.zeros(len(anchors))
    for i, name in enumerate(names):
        weights[scenario[anchors] == i] = _vector(part["examples_weights"][name], float)
    lambdas = np.asarray([_number(_value(part["optimal_lambdas"][name])) for name in names])
    return ItemBank(a, b, anchors, weights, tuple(map(str, names)), lambdas, scenario, subscenario)


def _value(found):
    return found.value if isinstance(found, _Array) else found


def _number(found) -> float:
    if not isinstance(found, int | float | np.ndarray):
        raise ValueError("a weight that is no number")
    return float(found)


def _vector(found, kind) -> np.ndarray:
    entries = [_value(entry) for entry in _value(found)]
    if not all(isinstance(entry, int | float | np.number) for entry in entries):
        raise ValueError("positions or weights that are no numbers")
    return np.asarray([kind(entry) for entry in entries], kind)


def _matrix(found) -> np.ndarray:
    """Return ``[D, N]`` of what is stored as ``[1, D, N]``."""
    array = _value(found)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise ValueError("item parameters that are no array of numbers")
    array = array.astype(np.float64)
    if array.ndim != 3 or array.shape[0] != 1:
        raise ValueError(f"item parameters of shape {list(array.shape)}")
    return array[0]
