"""One bit is flipped in a file of a realignment or of its inputs: the check names that file.

  python -m tests.reliability.flips [--bits 2000] [--seed 0] [--record]

Every file has its share of the flips, at random places; the rest go by size.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.formats import record as records
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import save_inputs
from tests.reliability.results import Result, record

_INPUTS = ("base", "aligned", "finetuned", "weak")


class Flips(NamedTuple):
    """What came of flipped bits.

    Attributes:
      tried: how many there were.
      files: in how many files.
      missed: places ``file:bit`` whose flip was not found, or not named.
      seconds: that it took.
    """

    tried: int
    files: int
    missed: tuple[str, ...]
    seconds: float


def flip(path: pathlib.Path, place: int) -> None:
    """Turn one bit of a file around; places beyond its end start again from the beginning."""
    content = bytearray(path.read_bytes())
    content[place // 8 % len(content)] ^= 1 << place % 8
    path.write_bytes(bytes(content))


def named(output: pathlib.Path, file: pathlib.Path) -> bool:
    """Whether the check of an output names a file as changed."""
    try:
        changed = verify(output).changed
    except InputError as error:  # a record that is no JSON any more
        return file == output / records.FILE and records.FILE in str(error)
    name = file.relative_to(output).as_posix() if file.is_relative_to(output) else str(file)
    return any(name in line for line in changed)


def flip_often(bits: int, folder: pathlib.Path, seed: int) -> Flips:
    """Realign, and flip so many bits one after another, putting each back.

    Args:
      bits: how many, at least one for every file.
      folder: an empty one for inputs and output.
      seed: of the places.
    """
    inputs, output = save_inputs(folder), folder / "out"
    paths = {name: str(inputs / name) for name in _INPUTS}
    realign_files(Settings(**paths, calibration=str(inputs / "rows.jsonl")), output)
    found = verify(output)
    assert (found.changed, found.missing) == ((), ())
    files = _checked(output)
    sizes = np.array([file.stat().st_size for file in files], float)
    random, began, missed = np.random.default_rng(seed), time.monotonic(), []
    chosen = [*range(len(files)), *random.choice(len(files), max(bits - len(files), 0), p=sizes / sizes.sum())]
    for index in chosen[:bits]:
        file = files[index]
        before = file.read_bytes()
        place = int(random.integers(8 * len(before)))
        flip(file, place)
        if not named(output, file):
            missed.append(f"{file.name}:{place}")
        file.write_bytes(before)
    assert not verify(output).changed
    return Flips(len(chosen[:bits]), len(set(chosen[:bits])), tuple(missed), time.monotonic() - began)


def _checked(output: pathlib.Path) -> list[pathlib.Path]:
    """All files of an output, and all files that its record names as inputs, that hold anything."""
    kept = json.loads((output / records.FILE).read_text())
    inputs = [
        pathlib.Path(entry["path"]) / name if pathlib.Path(entry["path"]).is_dir() else pathlib.Path(entry["path"])
        for entry in kept["inputs"].values()
        if entry
        for name in entry["files"]
    ]
    return [path for path in [*sorted(output.rglob("*")), *inputs] if path.is_file() and path.stat().st_size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = flip_often(given.bits, pathlib.Path(folder), given.seed)
    print(f"{found.tried} bits in {found.files} files in {found.seconds:.0f} s; missed: {found.missed or 'none'}")
    if found.missed:
        raise SystemExit("not every flipped bit was found")
    if given.record:
        what = f"one bit flipped in one of {found.files} files of a realignment and its inputs: the check names it"
        command = f"python -m tests.reliability.flips --bits {given.bits}"
        record(Result(what, command, found.tried, found.tried - len(found.missed), found.seconds))


if __name__ == "__main__":
    main()
