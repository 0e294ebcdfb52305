"""Valid files made into others that are nearly valid: bytes, JSON, tables of text and safetensors."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
UNTOUCHED = 0.03
"""How many files are left as they are, to see that they are accepted."""
_MARK = "@raw{}@"
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0", "-0.0", "1" + "0" * 400, "9" * 5000),
    *(
        "[" * 200 + "]" * 200,
        '{"a":' * 150 + "1" + "}" * 150,
        '"\\ud800"',
        '{"a": 1, "a": 2}',
        "[[]" + ",[]" * 500 + "]",
    ),
    *('"\\u0000\\u001b[31m\\n\\u2028"', "1e5", "0x10", "'a'", "tru", "", "0.1e", "18446744073709551616", "1.0"),
)
"""JSON as text, and what is none: numbers not finite or huge, deep nesting, half a surrogate pair, a key twice."""
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 8, 0.5, 1e30, 2**31, 2**53, 2**63, -(2**63), 10**30, 1e-300),
    *("", " ", "..", "../..", "../../x.safetensors", "/etc/passwd", "/dev/zero", "~", "\x00", "a\nb", "x" * 3000),
    *(
        "NaN",
        "null",
        "F32",
        "BOOL",
        "U64",
        "q_proj",
        "<script>alert(1)</script>",
        "é" * 50,
        "\u202e",
        "𝒳",
        "%s%n{0}",
    ),
    *([], {}, [[]], [None], ["q_proj"], {"a": 1}, {"": {}}, [0] * 300, [{}], [1, 2, 3], {"path": "/", "files": {}}),
)
_INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\\",
    b"\n",
    b"\r",
    b"\xed\xa0\x80",
)


def pick(random: Random, choices):
    """One of a sequence."""
    return choices[int(random.integers(len(choices)))]


def mutate_bytes(random: Random, data: bytes, most: int = 6) -> bytes:
    """Change single bytes and stretches of them."""
    out = bytearray(data)
    for _ in range(0 if random.random() < UNTOUCHED else int(random.integers(1, most + 1))):
        place = int(random.integers(len(out) + 1))
        length = int(random.integers(1, 17))
        kind = int(random.integers(8))
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << int(random.integers(8))
        elif kind == 1 and out:
            out[place % len(out)] = int(random.integers(256))
        elif kind == 2:
            del out[place:]
        elif kind == 3:
            out[place:place] = random.bytes(length)
        elif kind == 4:
            del out[place : place + length]
        elif kind == 5:
            source = int(random.integers(len(out) + 1))
            out[place:place] = out[source : source + 4 * length]
        elif kind == 6:
            out[place:place] = pick(random, _INTERESTING)
        else:
            out[place : place + 8] = int(pick(random, (0, 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1))).to_bytes(
                8, "little"
            )
    return bytes(out)


def nasty(random: Random):
    """A value that a field is seldom meant to hold; some only as text of JSON, see ``dump``."""
    if random.random() < 0.25:
        return _MARK.format(int(random.integers(len(RAW))))
    return copy.deepcopy(pick(random, NASTY))


def dump(value) -> str:
    """Text of JSON, with the raw texts put in."""
    text = json.dumps(value, ensure_ascii=False)
    if "@raw" in text:
        for i, raw in enumerate(RAW):
            text = text.replace(f'"{_MARK.format(i)}"', raw)
    return text


def _places(value, found: list) -> list:
    """Every ``(container, key)`` of a JSON value."""
    for key, entry in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(entry, dict | list):
            _places(entry, found)
    return found


def change_json(random: Random, value, most: int = 3):
    """Change some of the values and keys inside; the value itself is left alone."""
    top = [json.loads(json.dumps(value))]
    for _ in range(1 if random.random() < 0.6 else int(random.integers(1, most + 1))):
        places = _places(top, [])
        holder, key = pick(random, places[1:] or places)
        kind = int(random.integers(8))
        if kind < 4:
            holder[key] = nasty(random)
        elif kind == 4 and holder is not top:
            del holder[key]
        elif kind == 5 and isinstance(holder, dict):
            name = nasty(random)
            holder[name if isinstance(name, str) else str(name)] = holder.pop(key)
        elif kind == 6:
            other, name = pick(random, places)
            if isinstance(other, list) or name in other:
                holder[key] = json.loads(json.dumps(other[name])) if _has(other, name) else None
        else:
            holder[key] = [holder[key]]
    return top[0]


def _has(holder, key) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def mutate_json(random: Random, value) -> bytes:
    """A JSON file with some of its values, keys, text or bytes changed."""
    if random.random() < UNTOUCHED:
        return json.dumps(value).encode()
    text = pick(random, RAW) if random.random() < 0.03 else dump(change_json(random, value))
    if random.random() < 0.1:  # a key twice
        start = text.find('"', int(random.integers(len(text) + 1)))
        end = text.find('":', start)
        if 0 <= start < end:
            text = text[:start] + text[start : end + 2] + "null," + text[start:]
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(random, data, 2) if random.random() < 0.2 else data


def mutate_lines(random: Random, rows: list, change: Callable[[Random, Any], bytes] = mutate_json) -> bytes:
    """A file of JSON lines with one of them changed, or bytes anywhere."""
    lines = [json.dumps(row).encode() for row in rows]
    if random.random() < UNTOUCHED:
        return b"\n".join(lines)
    place = int(random.integers(len(lines)))
    lines[place] = change(random, rows[place])
    data = pick(random, (b"\n", b"\n", b"\r\n", b"\n\n")).join(lines)
    return mutate_bytes(random, data, 3) if random.random() < 0.3 else data


def split_safetensors(data: bytes) -> tuple[dict, bytes]:
    """Header and values of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join_safetensors(header: bytes, values: bytes, size: int | None = None) -> bytes:
    """A safetensors file of a header, with its own size or another before it."""
    return ((len(header) if size is None else size) % 2**64).to_bytes(8, "little") + header + values


def mutate_safetensors(random: Random, data: bytes) -> bytes:
    """Change header fields under a true length, the length, or bytes anywhere."""
    kind = random.random()
    if kind < 0.2:
        return mutate_bytes(random, data)
    header, values = split_safetensors(data)
    if kind < 0.7:
        for _ in range(int(random.integers(1, 3))):
            _change_tensor(random, header)
        text = dump(header).encode("utf-8", "surrogatepass")
    else:
        text = mutate_json(random, header)
    ends = (values, values, values, values[:-1], values + b"\0", b"", values * 2)
    near = len(text) + int(random.integers(-9, 10))
    sizes = (None,) * 12 + (near, 0, 2**31, 2**63, 2**64 - 1, 100_000_000)
    return join_safetensors(text, pick(random, ends), pick(random, sizes))


def _change_tensor(random: Random, header: dict) -> None:
    names = [name for name in header if isinstance(header[name], dict) and name != "__metadata__"]
    if not names:
        return
    name = pick(random, names)
    entry = header[name]
    kind = int(random.integers(7))
    if kind == 0:
        entry["dtype"] = pick(
            random, ("F64", "F32", "F16", "BF16", "I64", "I8", "BOOL", "U64", "F8_E4M3", "X", "", None)
        )
    elif kind == 1:
        entry["shape"] = pick(
            random, ([], [0], [1], [-1], [2**40, 2**40], [2**62], [1e3], ["1"], 5, None, [[1]], [1] * 70)
        )
    elif kind == 2:
        entry["data_offsets"] = pick(
            random,
            ([0, 0], [0, 4], [4, 0], [-4, 0], [0, 2**63], [0, 2**64], [0], [], "0,4", [0, 4, 8], [0.0, 4.0], None),
        )
    elif kind == 3:
        begin, end = 4 * random.integers(-4, 5, 2)
        offsets = entry.get("data_offsets")
        if isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(place, int) for place in offsets):
            entry["data_offsets"] = [offsets[0] + int(begin), offsets[1] + int(end)]
    elif kind == 4:
        other = pick(random, names)
        header[name], header[other] = header[other], header[name]
    elif kind == 5:
        new = pick(
            random,
            (name + "x", name.replace("0", "1"), name.replace("A", "B"), "", "\x00", "x" * 5000, "__metadata__"),
        )
        header[new] = header.pop(name)
    else:
        entry[str(nasty(random))] = nasty(random)
