"""Item parameters of benchmarks: how difficult each item is, and which hundred items stand for all of them.

Axis legend: N items, n anchors (the items that are asked), D dimensions of ability, S scenarios.
"""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nlsr_jax.errors import InputError, reason_of
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.output import whole_file
from nlsr_jax.files.paths import exists, expand

_WHOLE = ("anchors", "scenario", "subscenario")
_CONVERT = "convert tinyBenchmarks.pkl with python -m experiments.convert_item_bank, from the source tree"


class ItemBank(NamedTuple):
    """Item parameters of one or more scenarios (a scenario is a benchmark, such as MMLU).

    Attributes:
      a: ``[D, N]`` discrimination of each item.
      b: ``[D, N]`` difficulty.
      anchors: ``[n]`` int, the items that are asked.
      weights: ``[n]`` the part of its scenario that each anchor stands for.
      scenarios: the S names.
      lambdas: ``[S]`` weight of the weighted anchors against the fitted model, 0 to 1.
      scenario: ``[N]`` int, to which scenario an item belongs.
      subscenario: ``[N]`` int, to which part of it (the subjects of MMLU); parts count alike.
    """

    a: np.ndarray
    b: np.ndarray
    anchors: np.ndarray
    weights: np.ndarray
    scenarios: tuple[str, ...]
    lambdas: np.ndarray
    scenario: np.ndarray
    subscenario: np.ndarray


def check_bank(bank: ItemBank, where: str) -> None:
    """Raise InputError unless the arrays of a bank fit one another."""
    if bank.a.ndim != 2 or bank.a.shape != bank.b.shape or 0 in bank.a.shape:
        raise InputError(f"{where}: a is {list(bank.a.shape)}, b {list(bank.b.shape)}; expected [D, N] of each")
    items, asked, count = bank.a.shape[1], len(bank.anchors), len(bank.scenarios)
    expected = {"anchors": asked, "weights": asked, "lambdas": count, "scenario": items, "subscenario": items}
    for name, length in expected.items():
        if getattr(bank, name).shape != (length,):
            raise InputError(f"{where}: {name} is {list(getattr(bank, name).shape)}; expected [{length}]")
    for name in ("a", "b", "weights", "lambdas"):
        if not np.isfinite(getattr(bank, name)).all():
            raise InputError(f"{where}: {name} holds a value that is not finite")
    if len(set(bank.anchors.tolist())) != asked or not _inside(bank.anchors, items) or not asked:
        raise InputError(f"{where}: anchors are not distinct items of 0 to {items - 1}")
    if not _inside(bank.scenario, count) or len(set(bank.scenarios)) != count:
        raise InputError(f"{where}: the items' scenarios are not among {count} names")
    if not _inside(bank.lambdas, 1 + 1e-9):
        raise InputError(f"{where}: lambdas run from {bank.lambdas.min()} to {bank.lambdas.max()}; expected 0 to 1")


def _inside(values: np.ndarray, end: float) -> bool:
    return bool(np.all((values >= 0) & (values < end)))


def save_banks(banks: Mapping[str, ItemBank], path: str | os.PathLike) -> None:
    """Write banks as one ``.npz`` file, complete or not at all.

    Args:
      banks: by name.
      path: the file, which must not exist.

    Raises:
      InputError: the arrays of a bank do not fit one another, or the file exists or cannot be written.
    """
    for name, bank in banks.items():
        check_bank(bank, f"item bank {name}")
    if exists(expand(path)):
        raise InputError(f"{path}: exists; name another file")
    with whole_file(path) as new, new.open("wb") as file:
        arrays = {f"{name}.{field}": getattr(banks[name], field) for name in banks for field in ItemBank._fields}
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_banks(path: str | os.PathLike) -> dict[str, ItemBank]:
    """Read the banks of a file that ``save_banks`` wrote; nothing in the file is executed.

    Args:
      path: the file. One of a former version, which holds one bank without a name, is read too.

    Returns:
      ``{name: ItemBank}`` in the order of the file.

    Raises:
      InputError: the file is missing, damaged or a pickle, or the arrays of a bank do not fit one another.
    """
    path = expand(path)
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise InputError(f"{path}: a pickle, which is never opened; {_CONVERT}")
    try:
        arrays = _read_arrays(path)
        names = dict.fromkeys(name.rpartition(".")[0] for name in arrays)
        found = {name: _bank(arrays, f"{name}." if name else "", path) for name in names}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the .npz file of an item bank; {_CONVERT}") from None
    except Exception as error:  # damaged archives raise nearly anything
        reason = reason_of(error)
        raise InputError(f"{path}: not an item bank ({reason}); {_CONVERT}") from error
    if not found:
        raise InputError(f"{path}: not an item bank (no arrays); {_CONVERT}")
    return found


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as parts:
        size = sum(part.file_size for part in parts.infolist())
    if size > LIMITS.bank_bytes:
        raise ValueError(f"{size} bytes unpacked; expected at most {LIMITS.bank_bytes}")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _bank(arrays: Mapping[str, np.ndarray], prefix: str, path: pathlib.Path) -> ItemBank:
    found = {field: arrays[prefix + field] for field in ItemBank._fields}
    names = tuple(str(name) for name in found.pop("scenarios").reshape(-1))
    for field, array in found.items():
        kinds, kind = ("iu", "whole numbers") if field in _WHOLE else ("f", "floats")
        if array.dtype.kind not in kinds:
            raise InputError(f"{path}: {prefix}{field} has type {array.dtype}; expected {kind}; {_CONVERT}")
    bank = ItemBank(scenarios=names, **found)
    check_bank(bank, f"{path}: {prefix[:-1]}" if prefix else str(path))
    return bank
