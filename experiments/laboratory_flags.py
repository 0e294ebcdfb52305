"""Open the cell runner for the sweeps, tables and figures."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import data_flags, path_flags, study_flags
from nlsr_jax.commands.processes import spawn, spawn_on_ray
from nlsr_jax.errors import InputError

if TYPE_CHECKING:
    from nlsr_jax.study.config_files import Study
    from nlsr_jax.sweep.cells import Cell
    from nlsr_jax.sweep.runner import CellRunner

FLAGS = flags.FLAGS

PLACES = {
    "toy": {"llama": "tiny", "qwen2": "tiny_qwen2", "mistral": "tiny_mistral"},
    "policy": {"llama": "smollm2"},
    "real": {"llama": "llama3_8b", "qwen2": "qwen2_7b", "mistral": "mistral_7b"},
}
"""Config whose base has a given architecture, by world."""
QUICK_TABLES = "4,5,8,9,10,11,14"
QUICK_FIGURES = "1,2,4,5,10,11"
"""Tables and figures that need few fine-tunings."""
_PASSED = re.compile(r"\.cells\.[a-z0-9_]{8}\.partial")
"""Folder of the cell lists that a sweep passes to its other processes."""


def define_laboratory_flags(output: str) -> None:
    """Define the flags that select the study and its folder.

    Args:
      output: help text of ``--output``.
    """
    path_flags.define_output("output", "checkpoints/runs/laboratory", output)
    study_flags.define_config_flag()
    study_flags.define_template_flag()
    path_flags.define_input("base", None, "The base of the study; by default the config's.")
    data_flags.define_data_flag()
    data_flags.define_judge_flags()
    flags.DEFINE_integer("workers", 1, "Processes, on this machine or, with --ray, on a cluster.", lower_bound=1)
    flags.DEFINE_string("ray", None, "Run the workers on a Ray cluster: its address, auto, or local (starts one).")


def open_runner() -> "CellRunner":
    """Return the ``CellRunner`` for the flags.

    Raises:
      InputError: if a config, judge or data set is invalid, or the folder has rows of another study.
    """
    from nlsr_jax import configs
    from nlsr_jax.devices import open_devices
    from nlsr_jax.evaluation.own_judge import as_judge, is_own
    from nlsr_jax.study.judging import RULES, check_judge
    from nlsr_jax.sweep.runner import CellRunner, describe_study
    from nlsr_jax.sweep.store import CellStore

    study = study_flags.open_study()
    config = study.config
    judge = data_flags.judge_settings(study)
    check_judge(judge, config.world)
    if config.world != "real" and judge.name != RULES[config.world] and not is_own(judge.name):
        raise InputError(f"--judge {judge.name}: studies of the {config.world} world use their own rule; remove it")
    own = next(architecture for architecture, named in PLACES[config.world].items() if named == study.origin)
    study.given.check_apart(tasks(study))

    def place(architecture: str):
        if architecture == own:
            return _open_place(study, FLAGS.base, judge)
        other = configs.open_study(PLACES[config.world][architecture])
        return _open_place(other._replace(given=study.given), None, judge)

    open_devices()
    described = describe_study(config)
    if config.world != "toy":
        described |= {"data": sorted(f"{name}={place}" for name, place in study.given.places.items())}
        described |= {"judge": dataclasses.asdict(judge)}
        if is_own(judge.name):
            described["judge"]["sha256"] = as_judge(judge.name).digest
    if study.given.tasks:
        described |= {"tasks": {name: dataclasses.asdict(task) for name, task in study.given.tasks.items()}}
    return CellRunner(place, config, CellStore(FLAGS.output, described, _inputs(config)), own=own)


def tasks(study: "Study | None" = None) -> tuple[str, ...]:
    """Return the names of the tasks that cells of the flags' study may have."""
    from nlsr_jax.data.toy_tasks import TASKS

    return (*TASKS, *(study or study_flags.open_study()).given.tasks)


def _inputs(config) -> dict[str, str]:
    """Return the inputs, except the list of cells that another process of this sweep wrote into the output."""
    from nlsr_jax import configs

    found = study_flags.inputs(config)
    others = PLACES[config.world].values()
    found |= {f"base of --config {name}": configs.get(name).base for name in others if name != config.name}
    cells = pathlib.Path(found.get("--cells", "")).absolute()
    passed = (
        bool(_PASSED.fullmatch(cells.parent.name)) and cells.parents[1] == pathlib.Path(FLAGS.output).absolute()
    )
    return {name: path for name, path in found.items() if name != "--cells" or not passed}


def _open_place(study: "Study", given: str | None, judge):
    """Return base and world of a study."""
    import jax.numpy as jnp

    from nlsr_jax.configs import base_of
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.evaluation.own_judge import AnswerJudge
    from nlsr_jax.models import load_model
    from nlsr_jax.study.judging import open_judge
    from nlsr_jax.study.policy import PolicyWorld
    from nlsr_jax.study.pretraining import load_base
    from nlsr_jax.study.real import RealWorld
    from nlsr_jax.study.stages import Base
    from nlsr_jax.study.toy import ToyWorld
    from nlsr_jax.study.worlds import World

    config = study.config
    if config.world == "toy":
        world = ToyWorld()
        return load_base(base_of(config, given), world), world
    place = base_of(config, given)
    tokenizer = load_tokenizer(place)
    options: dict[str, Any] = {"given": study.given, "note": study_flags.say}
    opened = open_judge(judge, config.world, study_flags.note)
    real: World
    if config.world == "policy":
        real = PolicyWorld(tokenizer, judge=opened if isinstance(opened, AnswerJudge) else None, **options)
    else:
        options |= {"judge": opened}
        real = RealWorld(tokenizer, study_flags.template_of(config, tokenizer), **options)
    model, params = load_model(place, dtype=jnp.dtype(config.dtype), note=study_flags.note)
    return Base(model, params, tokenizer, real.special_tokens), real


def passed_on() -> list[str]:
    """Return the flags of this module as arguments for other processes."""
    names = ("config", "template", "base", "judge", "judge_model", "judge_template")
    given = {name: FLAGS[name].value for name in names}
    given["output"] = str(pathlib.Path(FLAGS.output).absolute())
    found = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*found, *(f"--data={text}" for text in FLAGS.data)]


def run_all(runner: "CellRunner", cells: "Sequence[Cell]") -> None:
    """Run the cells without a row, in as many processes as the flags say."""
    import json

    from nlsr_jax.files.scratch import recover, scratch
    from nlsr_jax.sweep.cells import cell_fields
    from nlsr_jax.sweep.workers import run_cells

    done = runner.store.rows()
    missing = [cell for cell in cells if runner.name(cell) not in done]
    if (FLAGS.workers > 1 or FLAGS.ray) and missing:
        place = runner.store.path / "cells"  # in the output folder, which all machines can access
        recover(place)
        with scratch(place) as folder:
            file = folder / "cells.json"
            file.write_text(json.dumps([cell_fields(cell) for cell in missing]))
            passed = [*passed_on(), f"--cells={file.absolute()}"]
            count = FLAGS.workers

            def arguments(part: int) -> list[str]:
                return [*passed, f"--share={part}/{count}"]

            if FLAGS.ray:
                spawn_on_ray("experiments.sweep", arguments, count, FLAGS.ray)
            else:
                spawn("experiments.sweep", arguments, count)
    run_cells(runner, cells, note=notes(), waiting=wait)


def wait(count: int) -> None:
    """Report that another process is running cells."""
    print(f"waiting for {count} cells that another process is running", file=sys.stderr, flush=True)


def notes() -> "Callable[[int, int, Cell], None]":
    """Return a function that prints a line before each cell, with the time left."""
    import time

    started = time.monotonic()

    def note(done: int, count: int, cell) -> None:
        left = f", about {(time.monotonic() - started) / done * (count - done) / 60:.0f} min left" if done else ""
        settings = "".join(f" {name}={value}" for name, value in cell.settings)
        case = f"{cell.task}, {cell.poison_ratio:.0%} harmful, seed {cell.seed}"
        print(f"{done + 1}/{count}{left}: {cell.method}{settings} ({case})", file=sys.stderr, flush=True)

    return note


def seeds() -> tuple[int, ...]:
    """Return the seeds from the flags.

    Raises:
      InputError: if there are none, or one is repeated or invalid.
    """
    from nlsr_jax.commands import command
    from nlsr_jax.study.reproduction import Plan, check_plan

    found = command.numbers("seeds", int, FLAGS.seeds)
    check_plan(Plan(seeds=found))
    return found


def rows_by_cell(runner: "CellRunner", cells: "Sequence[Cell]") -> "dict[Cell, dict[str, Any]]":
    """Return the rows of cells by cell."""
    from nlsr_jax.sweep.runner import read_cells

    return dict(zip(cells, read_cells(runner, cells), strict=True))


def describe_world() -> str:
    """Return a description of the study's world."""
    if FLAGS.config == "tiny":
        return "a toy world of invented, harmless words"
    return f"the study {FLAGS.config}"
