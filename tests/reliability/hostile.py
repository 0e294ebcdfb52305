"""Files made to do harm, by name: what they declare is huge, contradictory or endless, their bytes are few.

  python -m tests.reliability.hostile FOLDER

writes all of them into a folder and reads each with no more than 1 GB of new address space; prints one line of JSON
each with what came of it, the seconds of CPU time and the growth of memory in bytes.
"""

import functools
import json
import pathlib
import pickle
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.reliability.fuzz import examine
from tests.reliability.fuzz_files import ADAPTER, BASE, bank_pickle, write_adapter, write_bank, write_base

SPACE = 2**30
"""Address space beyond what the imports take."""
LONG = 100 * 10**6
"""Characters of a row that nobody wrote for a model."""


def refusal(read: Callable[[], object]) -> str:
    """The line in which a call refuses what it reads."""
    outcome = examine(read)
    assert outcome.verdict == "refused", (outcome.verdict, outcome.error)
    return str(outcome.error)


def safetensors(header: dict | bytes, values: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file with any header, and any length before it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + values


def tensor(begin: int, end: int, shape=(1,), dtype: str = "F32") -> dict:
    """An entry of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def headers() -> dict[str, bytes]:
    """Safetensors files that contradict themselves."""
    one = tensor(0, 4)
    million = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(10**6))
    return {
        "length beyond the file": safetensors({"a": one}, b"1234", size=2**40),
        "length of all ones": safetensors({"a": one}, b"1234", size=2**64 - 1),
        "length of nothing": safetensors({"a": one}, b"1234", size=0),
        "length into the values": safetensors({"a": one}, b"1234", size=70),
        "cut in the length": b"\x08\0\0",
        "overlapping": safetensors({"a": tensor(0, 8, (2,)), "b": tensor(4, 12, (2,))}, b"x" * 12),
        "the same place twice": safetensors({"a": one, "b": one}, b"1234"),
        "a hole": safetensors({"a": one, "b": tensor(8, 12)}, b"x" * 12),
        "backwards": safetensors({"a": tensor(4, 0)}, b"1234"),
        "negative": safetensors({"a": tensor(-4, 0)}, b"1234"),
        "out of range": safetensors({"a": tensor(0, 2**40, (2**38,))}, b"1234"),
        "offsets of 2**64": safetensors({"a": tensor(0, 2**64, (2**62,))}, b"1234"),
        "a shape that overflows": safetensors({"a": tensor(0, 4, (2**40, 2**40))}, b"1234"),
        "a negative shape": safetensors({"a": tensor(0, 4, (-1,))}, b"1234"),
        "a shape of another size": safetensors({"a": tensor(0, 4, (2,))}, b"1234"),
        "a name twice": safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(one).encode(),) * 2), b"1234"),
        "a type that nobody knows": safetensors({"a": tensor(0, 4, dtype="F31")}, b"1234"),
        "a type that is not read": safetensors({"a": tensor(0, 8, dtype="U64")}, b"12345678"),
        "a million names": safetensors(b"{%b}" % million.encode()),
        "deep": safetensors(b'{"a":' * 10_000),
        "a list": safetensors(b"[1, 2]"),
        "not text": safetensors(b'{"\xff\xfe": 1}'),
        "metadata of numbers": safetensors({"__metadata__": {"a": 1}, "a": one}, b"1234"),
    }


def _memo_bomb() -> bytes:
    return b"\x80\x04K\x01r\xff\xff\xff\x3f."


def _declared_bytes() -> bytes:
    return b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x."


def _declared_frame() -> bytes:
    return b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N."


def _key_bomb() -> bytes:
    """A dict whose key is a pair of the same pair of the same pair …; its hash takes 2**60 steps."""
    pairs = b"K\x01" + b"".join(b"q%bh%b\x86" % (bytes([i]), bytes([i])) for i in range(60))
    return b"\x80\x02}" + pairs + b"K\x01s."


def _shared_lists() -> bytes:
    """Positions of a hundred thousand subscenarios, all of them one list of a hundred thousand."""
    part = pickle.loads(bank_pickle())["lb"]
    items = list(range(100_000))
    part["subscenarios_position"]["scenario 0"] = dict.fromkeys(map(str, range(100_000)), items)
    return pickle.dumps({"lb": part}, 4)


def _nested_lists() -> bytes:
    """Parameters as lists of the same list: 10**9 numbers of a few bytes."""
    part = pickle.loads(bank_pickle())["lb"]
    nested: list = [0.0] * 10
    for _ in range(8):
        nested = [nested] * 10
    part["irt_parameters"]["A"] = nested
    return pickle.dumps({"lb": part}, 4)


PICKLES: dict[str, Callable[[], bytes]] = {
    "a memo of 2**30 entries": _memo_bomb,
    "bytes of 2**40": _declared_bytes,
    "a frame of 2**40": _declared_frame,
    "a key that takes for ever": _key_bomb,
    "one list a hundred thousand times": _shared_lists,
    "lists of the same list": _nested_lists,
}


def npz_bomb(path: pathlib.Path) -> None:
    """A bank of a megabyte whose first array unpacks to half a gigabyte."""
    write_bank(path)
    with zipfile.ZipFile(path, "r") as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in parts.items():
            if name != "lb.a.npy":
                new.writestr(name, data)
        with new.open("lb.a.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f8", "fortran_order": False, "shape": (2, 2**25)}
            )
            for _ in range(512):
                file.write(bytes(2**20))


def parquet_bomb(path: pathlib.Path, rows: int = 2000) -> None:
    """Rows that all name the same long text, which the file holds once."""
    import pyarrow
    import pyarrow.parquet

    long = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * (10 * 2**20)])
    table = pyarrow.table({"prompt": long, "response": ["y"] * rows})
    pyarrow.parquet.write_table(table, path, compression="zstd")


def _rows(path: pathlib.Path, text: str):
    from nlsr_jax.data.rows import read_rows

    path.write_text(text)
    return lambda: read_rows(str(path), ("prompt", "response"))


def heavy(folder: pathlib.Path) -> dict[str, Callable[[], object]]:
    """What would take memory or time if it were believed, by name: calls that read it."""
    from experiments.bank_pickle import read_pickle
    from nlsr_jax.data.rows import read_rows
    from nlsr_jax.evaluation.item_bank import load_banks
    from nlsr_jax.files.safetensors_files import open_checked
    from nlsr_jax.formats.hugging_face import check_weights, read_config
    from nlsr_jax.formats.peft import load_adapter

    found: dict[str, Callable[[], object]] = {}
    for i, (name, data) in enumerate(headers().items()):
        path = folder / f"{i}.safetensors"
        path.write_bytes(data)
        found[f"safetensors: {name}"] = functools.partial(open_checked, path)
    for i, (name, make) in enumerate(PICKLES.items()):
        path = folder / f"{i}.pkl"
        path.write_bytes(make())
        found[f"pickle: {name}"] = functools.partial(read_pickle, path)
    npz_bomb(folder / "bomb.npz")
    found["npz: an array of half a gigabyte"] = lambda: load_banks(folder / "bomb.npz")
    parquet_bomb(folder / "bomb.parquet")
    found["parquet: one long text in every row"] = lambda: read_rows(
        str(folder / "bomb.parquet"), ("prompt", "response")
    )
    row = json.dumps({"prompt": "x" * LONG, "response": "y"})
    found["jsonl: a long row"] = _rows(folder / "long.jsonl", row + "\n")
    found["json: a long row"] = _rows(folder / "long.json", f"[{row}]")
    found["csv: a long row"] = _rows(folder / "long.csv", f"prompt,response\n{'x' * (LONG // 10)},y\n")
    found["csv: a quote without end"] = _rows(folder / "quote.csv", 'prompt,response\n"' + "x\n" * (LONG // 20))
    found["csv: a row of many lines"] = _rows(folder / "lines.csv", "prompt,response\na" + ',"\n"' * (LONG // 20))
    found["json: millions of lists"] = _rows(folder / "lists.json", "[" + "[]," * 10**7 + "[]]")
    base = write_base(folder / "wide")
    (base / "config.json").write_text(json.dumps({**BASE, "hidden_size": 2**30, "vocab_size": 2**31 - 1}))
    found["config: a model of 10**19 bytes"] = lambda: check_weights(base, read_config(base))
    deep = write_base(folder / "tall")
    (deep / "config.json").write_text(json.dumps({**BASE, "num_hidden_layers": 2**31 - 1}))
    found["config: two thousand million layers"] = lambda: check_weights(deep, read_config(deep))
    changes: dict[str, dict[str, Any]] = {
        "a rank of 2**40": {"r": 2**40},
        "layers by the million": {"layers_to_transform": list(range(10**6))},
        "backtracking": {"target_modules": r"(?:(\w)|(\w)|(\.))+(?!\3)[#%]"},
        "classes that compile slowly": {"target_modules": "(?i)" + "[\0-\x10\x20-\u1000\u2000-\uffff]" * 10_000},
        "a key of megabytes": {"rank_pattern": {"(?:a|b)" * 10**6: 2}},
        "a hundred thousand keys": {"rank_pattern": {f"(a|b|{i})*c": 2 for i in range(100_000)}},
    }
    for i, (name, change) in enumerate(changes.items()):
        place = write_adapter(folder / f"adapter {i}")
        plain = {**ADAPTER, "layers_to_transform": None, "layers_pattern": None}
        (place / "adapter_config.json").write_text(json.dumps({**plain, **change}))
        found[f"adapter: {name}"] = functools.partial(load_adapter, place)
    return found


def address_space() -> int:
    """Bytes of address space that this process has."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


def main() -> None:
    """Read every file under a limit of the address space."""
    calls = heavy(pathlib.Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + SPACE,) * 2)
    for name, call in calls.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = examine(call)
        growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        told = {"name": name, "verdict": outcome.verdict, "error": str(outcome.error or "")}
        print(json.dumps({**told, "seconds": outcome.seconds, "growth": growth}), flush=True)


if __name__ == "__main__":
    main()
