"""Targets that are rows of text in any format, and the item banks of the tinyBenchmarks."""

import csv
import io
import json
import pathlib

from tests.reliability import fuzz_files as files
from tests.reliability.fuzz_cases import Case, binary_file, json_file
from tests.reliability.fuzz_mutations import Random, mutate_bytes, mutate_lines, nasty, pick


def _csv(rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: x if isinstance(x, str) else json.dumps(x) for name, x in row.items()})
    return text.getvalue().encode()


def rows_jsonl(folder: pathlib.Path) -> Case:
    from nlsr_jax.data.rows import read_rows

    path = folder / "rows.jsonl"

    def case(random: Random):
        path.write_bytes(mutate_lines(random, files.ROWS))
        return lambda: read_rows(str(path), ("prompt", "response"))

    return case


def rows_json(folder: pathlib.Path) -> Case:
    from nlsr_jax.data.rows import read_rows

    path = folder / "rows.json"
    return json_file(path, files.ROWS, lambda: read_rows(str(path), ("prompt", "response")))


def rows_csv(folder: pathlib.Path) -> Case:
    from nlsr_jax.data.rows import read_rows

    path = folder / "rows.csv"
    valid = _csv(files.ROWS)

    def case(random: Random):
        data = mutate_bytes(random, valid)
        if random.random() < 0.3:
            data = data.replace(b"no", str(nasty(random)).encode("utf-8", "surrogatepass"), 1)
        path.write_bytes(data)
        return lambda: read_rows(str(path), ("prompt", "response"))

    return case


def rows_parquet(folder: pathlib.Path) -> Case:
    from nlsr_jax.data.rows import read_rows

    path = files.write_parquet(folder / "rows.parquet")
    return binary_file(path, mutate_bytes, lambda: read_rows(str(path), ("prompt", "response")))


def data_sets(folder: pathlib.Path) -> Case:
    """Rows of every set that is loaded by name, as JSON lines or CSV."""
    from nlsr_jax.data.sources import load

    names = list(files.DATA_ROWS)

    def case(random: Random):
        name = pick(random, names)
        rows = files.DATA_ROWS[name]
        as_csv = random.random() < 0.3
        path = folder / ("rows.csv" if as_csv else "rows.jsonl")
        path.write_bytes(mutate_bytes(random, _csv(rows)) if as_csv else mutate_lines(random, rows))
        strict = random.random() < 0.5
        return lambda: load(name, str(path), strict=strict)

    return case


def calibration(folder: pathlib.Path) -> Case:
    """Rows through a tokenizer into batches."""
    from nlsr_jax.data.calibration import batches, load_calibration, load_tokenizer
    from tests.tiny_base import save_tokenizer

    save_tokenizer(folder / "tokenizer")
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    path = folder / "rows.jsonl"

    def case(random: Random):
        path.write_bytes(mutate_lines(random, files.ROWS))
        template = pick(random, ("none", "alpaca"))

        def read():
            found = load_calibration(str(path), tokenizer, max_length=64, template=template, preference=True)
            return list(batches(found.rows, 2, 64))

        return read

    return case


def bank_pickle(folder: pathlib.Path) -> Case:
    from experiments.bank_pickle import read_pickle

    path = folder / "bank.pkl"
    path.write_bytes(files.bank_pickle())
    return binary_file(path, mutate_bytes, lambda: read_pickle(path))


def bank_arrays(folder: pathlib.Path) -> Case:
    from nlsr_jax.evaluation.item_bank import load_banks

    path = files.write_bank(folder / "bank.npz")
    return binary_file(path, mutate_bytes, lambda: load_banks(path))
