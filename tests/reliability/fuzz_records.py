"""Targets that are records of runs, and what they name: reports, sweeps, training runs, paths."""

import pathlib

from tests.reliability import fuzz_files as files
from tests.reliability.fuzz_cases import Case, json_file
from tests.reliability.fuzz_mutations import UNTOUCHED, Random, change_json, mutate_bytes, mutate_lines, pick


def record(folder: pathlib.Path) -> Case:
    """What ``realign --from_record`` does with a record before it opens any input."""
    from nlsr_jax.formats.record import check_digests, read_record
    from nlsr_jax.pipeline.checks import check_realignment
    from nlsr_jax.pipeline.settings import from_record

    path = folder / "realignment.json"
    valid = files.realignment()

    def read():
        found = read_record(path)
        check_realignment(from_record(found["settings"], str(path)))
        check_digests(found["inputs"], valid["inputs"], path)

    return json_file(path, valid, read)


def verified_record(folder: pathlib.Path) -> Case:
    from nlsr_jax.pipeline.verification import verify

    place = files.write_output(folder / "out", files.realignment())
    return json_file(place / "realignment.json", files.realignment(), lambda: verify(place))


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
    return json_file(path, files.realignment(), lambda: render_report(read_record(path), figures={}).encode())


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


def cells(folder: pathlib.Path) -> Case:
    from nlsr_jax.files.json_files import read_json
    from nlsr_jax.sweep.cells import cells_from_json

    path = folder / "cells.json"
    return json_file(path, files.CELLS, lambda: cells_from_json(read_json(path, "list of cells"), path))


def cell_rows(folder: pathlib.Path) -> Case:
    from nlsr_jax.sweep.cells import ROWS, STUDY
    from nlsr_jax.sweep.store import CellStore

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
    return json_file(folder / RUN, identity, lambda: check_run(folder, identity))
