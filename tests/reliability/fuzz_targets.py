"""One target for every parser that reads files of others: a valid file changed, and the call that reads it."""

import csv
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.reliability import fuzz_files as files
from tests.reliability.fuzz_mutations import (
    UNTOUCHED,
    Random,
    change_json,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
    nasty,
    pick,
)

Case = Callable[[Random], Callable[[], Any]]
"""Writes the files of one case, and returns the call that reads them."""


class Target(NamedTuple):
    """One parser.

    Attributes:
      name: of the target.
      weight: its share of the cases; slow parsers have less.
      prepare: writes valid files into a folder, and returns what makes cases of them.
    """

    name: str
    weight: float
    prepare: Callable[[pathlib.Path], Case]


def _json_file(path: pathlib.Path, value, read: Callable[[], Any]) -> Case:
    def case(random: Random):
        path.write_bytes(mutate_json(random, value))
        return read

    return case


def _binary_file(path: pathlib.Path, change: Callable[[Random, bytes], bytes], read: Callable[[], Any]) -> Case:
    data = path.read_bytes()

    def case(random: Random):
        path.write_bytes(change(random, data))
        return read

    return case


def adapter_config(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.peft import load_adapter

    place = files.write_adapter(folder / "adapter")
    return _json_file(place / "adapter_config.json", files.ADAPTER, lambda: load_adapter(place))


def adapter_weights(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.peft import load_adapter
    from nlsr_jax.models.config import parse_model_config

    place = files.write_adapter(folder / "adapter")
    config = parse_model_config(files.BASE, "config.json")
    return _binary_file(
        place / "adapter_model.safetensors", mutate_safetensors, lambda: load_adapter(place, config)
    )


def base_config(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.hugging_face import CONFIG, check_weights, read_config

    place = files.write_base(folder / "base")
    families = ("llama", "mistral", "qwen2", "qwen3")

    def case(random: Random):
        family = pick(random, families)
        config = {**files.BASE, "model_type": family, "architectures": [f"{family.capitalize()}ForCausalLM"]}
        (place / CONFIG).write_bytes(mutate_json(random, config))
        return lambda: check_weights(place, read_config(place))

    return case


def base_index(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.hugging_face import INDEX, check_weights, read_config

    place = files.write_base(folder / "base", shards=True)
    index = json.loads((place / INDEX).read_text())
    return _json_file(place / INDEX, index, lambda: check_weights(place, read_config(place)))


def base_weights(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.hugging_face import WEIGHTS, read_config, read_params

    place = files.write_base(folder / "base")
    return _binary_file(place / WEIGHTS, mutate_safetensors, lambda: read_params(place, read_config(place)))


def classifier_config(folder: pathlib.Path) -> Case:
    from safetensors.numpy import load_file, save_file

    from nlsr_jax.formats.hugging_face import CONFIG, WEIGHTS
    from nlsr_jax.models.classifier import open_classifier

    place = files.write_base(folder / "judge")
    tensors = load_file(place / WEIGHTS)
    tensors["score.weight"] = np.ones((2, 8), np.float32)
    del tensors["lm_head.weight"]
    save_file(tensors, place / WEIGHTS)
    config = {**files.BASE, "architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    return _json_file(place / CONFIG, config, lambda: open_classifier(place))


def patterns(folder: pathlib.Path) -> Case:
    """Regular expressions and names, which decide for every module of a model."""
    from nlsr_jax.formats.peft_config import parse_adapter_config
    from nlsr_jax.formats.peft_targets import select_targets

    del folder
    parts = (
        *(
            ".*",
            "q_proj",
            "layers",
            r"\.",
            "model",
            r"\d+",
            "(q|k)",
            "_proj",
            "[a-z]",
            "+",
            "?",
            "{2}",
            "{,3}",
            "(?:",
        ),
        *(
            "(",
            ")",
            "[",
            "]",
            "|",
            "^",
            "$",
            r"\w",
            "(?i)",
            "(?P<a>",
            "(?=",
            "(?!",
            "(?<=a)",
            r"\1",
            "*",
            "{9999999999}",
        ),
        *(
            "\\",
            "(?#",
            "[^.]*",
            "(?a:",
            "\x00",
            "é",
            "{e}",
            "\\N{DIGIT ONE}",
            "(?P=a)",
            "(?>",
            "*+",
            "(?(1)a|b)",
            "\ud800",
        ),
        *(
            "mlp",
            "self_attn",
            "down_proj",
            "0",
            "all-linear",
            "[[:alpha:]]",
            "&&",
            "--",
            r"\p{L}",
            r"\Z",
            r"\K",
            "(?R)",
        ),
    )

    def pattern(random: Random) -> str:
        return "".join(pick(random, parts) for _ in range(int(random.integers(1, 9))))

    def case(random: Random):
        config = {**files.ADAPTER, "layers_pattern": None, "layers_to_transform": None}
        kind = -1 if random.random() < UNTOUCHED else int(random.integers(5))
        if kind == 0:
            config["target_modules"] = pattern(random)
        elif kind == 1:
            config["target_modules"] = [pattern(random) for _ in range(3)] + ["q_proj"]
        elif kind == 2:
            config["exclude_modules"] = pattern(random)
        elif kind == 3:
            config["layers_to_transform"], config["layers_pattern"] = [0], [pattern(random)]
        elif kind == 4:
            config["rank_pattern"] = {pattern(random): 2, pattern(random): 4}
        return lambda: select_targets(parse_adapter_config(config, "adapter_config.json"), 2, "adapter_config.json")

    return case


def masks(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.mask_files import load_masks

    path = files.write_masks(folder / "masks.safetensors")
    return _binary_file(path, mutate_safetensors, lambda: load_masks(path))


def record(folder: pathlib.Path) -> Case:
    """What ``realign --from_record`` does with a record before it opens any input."""
    from nlsr_jax.formats.record import check_digests, read_record
    from nlsr_jax.pipeline.settings import check_settings, from_record

    path = folder / "realignment.json"
    valid = files.realignment()

    def read():
        found = read_record(path)
        check_settings(from_record(found["settings"], str(path)))
        check_digests(found["inputs"], valid["inputs"], path)

    return _json_file(path, valid, read)


def verified_record(folder: pathlib.Path) -> Case:
    from nlsr_jax.pipeline.verification import verify

    place = files.write_output(folder / "out", files.realignment())
    return _json_file(place / "realignment.json", files.realignment(), lambda: verify(place))


def names(folder: pathlib.Path) -> Case:
    """Names of inputs, as a record may hold them."""
    from nlsr_jax.data.places import open_rows
    from nlsr_jax.data.rows import read_rows
    from nlsr_jax.formats.mask_files import load_masks
    from nlsr_jax.formats.peft import load_adapter
    from nlsr_jax.formats.record import read_record
    from nlsr_jax.models.load import load_model
    from nlsr_jax.pipeline.settings import Settings, with_absolute_paths

    masks = files.write_masks(folder / "masks.safetensors")
    parts = (
        "x" * 300,
        "x",
        "..",
        "/",
        "\x00",
        "~",
        "\ud800",
        "é",
        "\n",
        "/dev/zero",
        "/proc/self/mem",
        "/dev/null",
        str(folder),
    )
    reads = (
        load_masks,
        load_adapter,
        lambda name: load_model(f"{name}/"),
        read_record,
        lambda name: read_rows(f"{name}.jsonl", ("prompt",)),
        lambda name: list(open_rows(f"{name}.csv", "train")),
        lambda name: with_absolute_paths(Settings(base=name, masks=name)),
    )

    def case(random: Random):
        if random.random() < UNTOUCHED:
            return lambda: load_masks(masks)
        name = "".join(pick(random, parts) for _ in range(int(random.integers(1, 20))))
        read = pick(random, reads)
        return lambda: read(name)

    return case


def report(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.record import read_record
    from nlsr_jax.report import render_report

    path = folder / "realignment.json"
    return _json_file(path, files.realignment(), lambda: render_report(read_record(path), figures={}).encode())


def report_figures(folder: pathlib.Path) -> Case:
    """Figures of the entries of ``modules``, the part that they are drawn of."""
    from nlsr_jax.report import draw_figures

    del folder
    valid = files.realignment()

    def case(random: Random):
        untouched = random.random() < UNTOUCHED
        changed = valid if untouched else {**valid, "modules": change_json(random, valid["modules"])}
        return lambda: draw_figures(changed)

    return case


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
    return _json_file(path, files.ROWS, lambda: read_rows(str(path), ("prompt", "response")))


def _csv(rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0])
    writer.writerows(
        [[value if isinstance(value, str) else json.dumps(value) for value in row.values()] for row in rows]
    )
    return text.getvalue().encode()


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
    return _binary_file(path, mutate_bytes, lambda: read_rows(str(path), ("prompt", "response")))


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


def tokenizer(folder: pathlib.Path) -> Case:
    """Files that the tokenizers library reads, and chat templates that transformers runs."""
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.data.templates import apply_template
    from tests.tiny_base import save_tokenizer

    place = folder / "tokenizer"
    save_tokenizer(place)
    (place / "config.json").write_text('{"model_type": "llama"}')
    names = ("tokenizer.json", "tokenizer_config.json")
    valid = {name: json.loads((place / name).read_text()) for name in names}
    valid["tokenizer_config.json"]["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    templates = (
        "{{",
        "{{ 1 / 0 }}",
        "{{ x.y.z }}",
        "{% for i in 3 %}{% endfor %}",
        "{{ raise_exception('\x1b[0m') }}",
        5,
    )

    def case(random: Random):
        chosen = pick(random, names)
        for name in names:
            text = json.dumps(valid[name]).encode()
            (place / name).write_bytes(mutate_json(random, valid[name]) if name == chosen else text)
        if random.random() > 0.7:
            changed = {**valid["tokenizer_config.json"], "chat_template": pick(random, templates)}
            (place / "tokenizer_config.json").write_text(json.dumps(changed))

        def read():
            found = load_tokenizer(str(place))
            return apply_template("chat", "fold a mellip", found)

        return read

    return case


def cells(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.json_files import read_json
    from nlsr_jax.laboratory.cells import cells_from_json

    path = folder / "cells.json"
    return _json_file(path, files.CELLS, lambda: cells_from_json(read_json(path, "list of cells"), path))


def cell_rows(folder: pathlib.Path) -> Case:
    from nlsr_jax.laboratory.cells import ROWS, STUDY, CellStore

    store = folder / "store"
    CellStore(store, {"a": 1})
    study = (store / STUDY).read_bytes()

    def case(random: Random):
        (store / ROWS).write_bytes(mutate_lines(random, files.CELL_ROWS))
        (store / STUDY).write_bytes(mutate_bytes(random, study) if random.random() < 0.1 else study)
        return lambda: CellStore(store, {"a": 1}).rows()

    return case


def training_run(folder: pathlib.Path) -> Case:
    """The identity that a training run leaves in its folder."""
    from nlsr_jax.training.folder import RUN, check_run

    identity = {"settings": {"rank": 8, "name": "x"}, "inputs": {"base": "ab"}, "key": [0, 1]}
    return _json_file(folder / RUN, identity, lambda: check_run(folder, identity))


def bank_pickle(folder: pathlib.Path) -> Case:
    from nlsr_jax.evaluation.bank_pickle import read_pickle

    path = folder / "bank.pkl"
    path.write_bytes(files.bank_pickle())
    return _binary_file(path, mutate_bytes, lambda: read_pickle(path))


def bank_arrays(folder: pathlib.Path) -> Case:
    from nlsr_jax.evaluation.item_bank import load_bank

    path = files.write_bank(folder / "bank.npz")
    return _binary_file(path, mutate_bytes, lambda: load_bank(path))


_PARSERS: dict[Callable[[pathlib.Path], Case], float] = {
    adapter_config: 1,
    adapter_weights: 1,
    base_config: 1,
    base_index: 1,
    base_weights: 1,
    classifier_config: 0.5,
    patterns: 0.7,
    masks: 1,
    record: 1,
    verified_record: 0.7,
    names: 0.5,
    report: 0.3,
    report_figures: 0.003,
    rows_jsonl: 1,
    rows_json: 1,
    rows_csv: 1,
    rows_parquet: 0.7,
    data_sets: 1,
    calibration: 0.7,
    tokenizer: 0.05,
    cells: 1,
    cell_rows: 1,
    training_run: 0.5,
    bank_pickle: 1,
    bank_arrays: 0.5,
}
TARGETS = {prepare.__name__: Target(prepare.__name__, weight, prepare) for prepare, weight in _PARSERS.items()}
