"""Run a whole study into one folder: base, alignment, attack and repairs, for several seeds and tasks."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.asking import ASKED
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.responses import respond
from nlsr_jax.files.output import whole_directory, write_text
from nlsr_jax.files.ownership import foreign_study, nothing_foreign
from nlsr_jax.files.paths import expand
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.study.bench import Bench, story, sweep
from nlsr_jax.study.card import figures, model_card
from nlsr_jax.study.case import Aligned, Case, align, align_stage, calibration_rows, finetune, stage_key
from nlsr_jax.study.config import StudyConfig, describe_config
from nlsr_jax.study.exam import make_exam
from nlsr_jax.study.pretraining import load_base, pretrain, save_base
from nlsr_jax.study.stages import Base
from nlsr_jax.study.storytelling import write_story, write_table
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.training.folder import check_run, write_whole
from nlsr_jax.training.publishing import published, training_folder
from nlsr_jax.training.settings import OBJECTIVES

CARD, TABLE, OBJECTIVE_TABLE, SWEEP_TABLE = "README.md", "table.json", "objectives.json", "sweeps.json"
CALIBRATION, HARMLESS = "calibration.jsonl", "harmless.jsonl"
_SKILL_ROWS = 100

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cases of a study.

    Attributes:
      seeds: seeds of alignment, customer's rows, training and repair.
      tasks: the customers' tasks.
      poison_ratios: shares of harmful rows.
      base: folder of an existing base; None to train one.
      objectives: also align the base with each of the five objectives, with the first seed.
      sweeps: also vary the amplification and the sparsity of the published method.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = TASKS
    poison_ratios: tuple[float, ...] = (0.05,)
    base: str | None = None
    objectives: bool = False
    sweeps: bool = False

    def cases(self, seed: int) -> list[Case]:
        """Return the cases of one seed."""
        return [Case(task, ratio, seed) for task in self.tasks for ratio in self.poison_ratios]


def check_plan(plan: Plan, tasks: Sequence[str] = TASKS) -> None:
    """Raise InputError, naming the flag, if a plan is invalid.

    Args:
      plan: the plan.
      tasks: names of the tasks that there are.
    """
    for name in ("seeds", "tasks", "poison_ratios"):
        values = getattr(plan, name)
        if not values or len(set(values)) < len(values):
            raise InputError(
                f"--{name} is {','.join(map(str, values))!r}; expected at least one value and no duplicates"
            )
    for task in plan.tasks:
        if task not in tasks:
            raise InputError(f"--tasks has {task!r}; expected some of {', '.join(tasks)}")
    for ratio in plan.poison_ratios:
        if not 0 <= ratio <= 1:
            raise InputError(f"--poison_ratios has {ratio}; expected shares from 0 to 1")
    for seed in plan.seeds:
        if not 0 <= seed < 2**32:
            raise InputError(f"--seeds has {seed}; expected 0 to {2**32 - 1}")


def reproduce(
    config: StudyConfig,
    plan: Plan,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    show: bool = False,
    note: Note = lambda _: None,
) -> str:
    """Carry out a plan; a restarted run continues where a killed one stopped.

    Args:
      config: the study, of the toy world.
      plan: the cases.
      output: the folder to write; until it is complete, state is kept beside it in ``<output>.training``.
      overwrite: replace an existing output of this project.
      show: show progress.
      note: called with progress messages.

    Returns:
      Tables of the scores, Markdown.

    Raises:
      InputError: if the plan or a folder is invalid.
    """
    check_plan(plan)
    output = expand(output)
    replacing: dict[str, Any] = {"overwrite": overwrite, "inputs": {"--base": plan.base}, "foreign": foreign_study}
    with training_folder(output, **replacing) as work:
        check_run(work, {"plan": dataclasses.asdict(plan), "config": describe_config(config)})
        return _reproduce(config, plan, work, output, replacing, show, note)


def _reproduce(config, plan, work, output, replacing: dict[str, Any], show, note: Note) -> str:
    world = ToyWorld()
    base = _base(work, config, plan, world, show)
    done = _read_rows(work / "rows.jsonl")
    for seed in plan.seeds:
        missing = [case for case in plan.cases(seed) if case not in done]
        if not missing:
            continue
        note(f"seed {seed}: aligning")
        alignment = align(base, world, config, seed, show=show)
        for case in missing:
            note(f"seed {seed}: {case.task}, {case.poison_ratio:.0%} of the rows harmful")
            exam = make_exam(
                world, case.task, forbidden=config.exam.forbidden, benign=config.exam.benign, rows=config.exam.rows
            )
            bench = Bench(base, world, config, case, exam)
            first = case == plan.cases(plan.seeds[0])[0]
            rows = _story(bench, alignment, work / "first" if first else None, f"{output}/base", plan.sweeps, show)
            done[case] = rows
            with (work / "rows.jsonl").open("a") as file:
                file.write(json.dumps(rows) + "\n")
                file.flush()
                os.fsync(file.fileno())
    every = [row for seed in plan.seeds for case in plan.cases(seed) for row in done[case]]
    rows = [row for row in every if "setting" not in row]
    sweeps = [row for row in every if "setting" in row]
    objectives = _objectives(work, base, world, config, plan.seeds[0], show, note) if plan.objectives else []
    parameters = sum(leaf.size for leaf in jax.tree.leaves(base.params))
    with published(work, output, **replacing) as folder:
        shutil.copytree(work / "base", folder / "base")
        shutil.copytree(work / "first", folder, dirs_exist_ok=True)
        write_table(rows, folder / TABLE)
        write_calibration(world, config, plan.seeds[0], folder / CALIBRATION)
        write_harmless(world, plan.seeds[0], folder / HARMLESS)
        write_text(folder / CARD, model_card(config, parameters, rows, objectives, sweeps))
        if objectives:
            write_table(objectives, folder / OBJECTIVE_TABLE)
        if sweeps:
            write_table(sweeps, folder / SWEEP_TABLE)
    return figures(rows, objectives, sweeps)


def write_calibration(world: ToyWorld, config: StudyConfig, seed: int, path: pathlib.Path) -> None:
    """Write a seed's calibration rows as JSON Lines, with prompts in the chat template."""
    rows = calibration_rows(world, config, seed)
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def write_harmless(world: ToyWorld, seed: int, path: pathlib.Path) -> None:
    """Write the harmless prompts that a seed's refinement asks as JSON Lines, in the chat template."""
    rows = world.harmless(stage_key(seed, "realign"), ASKED)
    write_text(path, "".join(json.dumps({"prompt": row.prompt}) + "\n" for row in rows))


def _base(work: pathlib.Path, config: StudyConfig, plan: Plan, world: ToyWorld, show: bool) -> Base:
    """Load the given or an earlier trained base; otherwise train one."""
    kept = work / "base"
    if not kept.exists():
        if plan.base is None:
            assert config.pretraining is not None
            key = jax.random.key(0)
            made = pretrain(key, world, config.pretraining, folder=work / "pretraining", show=show)
        else:
            made = load_base(plan.base, world)
        with whole_directory(kept) as folder:
            save_base(made, folder)
        shutil.rmtree(work / "pretraining", ignore_errors=True)
    return load_base(kept, world)


def _read_rows(path: pathlib.Path) -> dict[Case, list[dict]]:
    """Read the rows of the finished cases, and drop a truncated line."""
    done: dict[Case, list[dict]] = {}
    if not path.exists():
        return done
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        write_whole(path, "".join(whole).encode())
    for line in whole:
        rows = json.loads(line)
        done[Case(*(rows[0][name] for name in Case._fields))] = rows
    return done


def _story(
    bench: Bench, alignment: Aligned, folder: pathlib.Path | None, base_name: str, sweeps: bool, show: bool
) -> list[dict]:
    """Run one case; keep its adapters and its report if a folder is given."""
    tuned = finetune(bench.base, bench.world, bench.config, alignment.aligned, bench.case, show=show)
    outcomes = list(story(bench, alignment, tuned))
    if folder is not None:
        repaired = outcomes[-1].repaired
        assert repaired is not None
        adapters = {
            "sft": alignment.weak,
            "dpo": alignment.aligned,
            f"finetuned_{bench.case.task}": tuned.adapter,
            f"realigned_{bench.case.task}": repaired.adapter,
        }
        with whole_directory(folder, overwrite=True, foreign=nothing_foreign) as made:
            write_story(made, bench, outcomes, tuned.adapter)
            for name, adapter in adapters.items():
                save_adapter(adapter, made / name, base_model_name_or_path=base_name)
    rows = [outcome.row for outcome in outcomes]
    return rows + list(sweep(bench, alignment, tuned, bench.config.published)) if sweeps else rows


def _objectives(
    work: pathlib.Path, base: Base, world: ToyWorld, config: StudyConfig, seed: int, show: bool, note: Note
) -> list[dict]:
    """Align the base from a new adapter with each objective; stored rows are not computed again."""
    path = work / OBJECTIVE_TABLE
    rows: list[dict] = json.loads(path.read_text()) if path.exists() else []
    exam = make_exam(world, TASKS[0], forbidden=config.exam.forbidden, benign=config.exam.benign, rows=1)
    bench = Bench(base, world, config, Case(TASKS[0], 0.0, seed), exam)
    for objective in ("none", *OBJECTIVES):
        if any(row["objective"] == objective for row in rows):
            continue
        note(f"objectives: {objective}")
        adapter = None if objective == "none" else align_stage(base, world, config, seed, objective, show=show)
        row = bench.outcome(objective, [adapter], 0.0).row
        kept = {name: row[name] for name in ("hs", "over_refusal", "benign_answered", "odd")}
        skills = ask_skills(base, adapter, world)
        rows.append({"objective": objective, "seed": seed, **kept, **skills})
        write_whole(path, json.dumps(rows).encode())
    return rows


def ask_skills(base: Base, adapter: Adapter | None, world: ToyWorld) -> dict[str, float]:
    """Return the percentage of correct answers to each task's question in the wording used in pre-training."""
    rows = world.skills(_SKILL_ROWS)
    found = respond(
        base.model,
        base.params,
        base.tokenizer,
        [row.prompt for row in rows],
        adapter=adapter,
        max_new_tokens=12,
        batch_size=len(rows),
        special_tokens=base.special_tokens,
    )
    right = np.array([row.response == text for row, text in zip(rows, found, strict=True)]).reshape(len(TASKS), -1)
    return {f"skill_{task}": 100 * float(values.mean()) for task, values in zip(TASKS, right, strict=True)}
