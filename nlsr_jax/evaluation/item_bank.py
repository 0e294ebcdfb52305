"""What is known of a benchmark's items: how hard they are, and which hundred stand for all of them.

Axis legend: N items, n anchors (the items that are asked), D dimensions of ability, S scenarios.
"""

import os
import zipfile
from typing import NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.output import whole_file
from nlsr_jax.files.paths import exists, expand

_WHOLE = ("anchors", "scenario", "subscenario")


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


def save_bank(bank: ItemBank, path: str | os.PathLike) -> None:
    """Write a bank as an ``.npz`` file, whole or not at all.

    Raises:
      InputError: the arrays do not fit one another, or the file exists or cannot be written.
    """
    check_bank(bank, "item bank")
    if exists(expand(path)):
        raise InputError(f"{path}: exists; name another file")
    with whole_file(path) as new, new.open("wb") as file:
        arrays = {name: np.asarray(value) for name, value in bank._asdict().items()}
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_bank(path: str | os.PathLike) -> ItemBank:
    """Read a bank that ``save_bank`` or ``convert_pickle`` wrote; nothing in the file is ever run.

    Raises:
      InputError: the file is missing or damaged, or its arrays do not fit one another.
    """
    path = expand(path)
    try:
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > LIMITS.bank_bytes:
            raise ValueError(f"{size} bytes unpacked; expected at most {LIMITS.bank_bytes}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ItemBank._fields}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected item parameters, see convert_pickle") from None
    except Exception as error:  # damaged archives raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: no item parameters ({reason}); write them with convert_pickle") from error
    names = tuple(str(name) for name in arrays.pop("scenarios").reshape(-1))
    bank = ItemBank(scenarios=names, **arrays)
    for name, array in arrays.items():
        if array.dtype.kind not in ("iu" if name in _WHOLE else "f"):
            raise InputError(f"{path}: {name} has type {array.dtype}; write the file with convert_pickle")
    check_bank(bank, str(path))
    return bank
