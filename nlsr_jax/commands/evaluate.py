r"""Evaluate a base with an adapter: harmfulness, fine-tuning accuracy, over-refusal, optionally tinyBenchmarks.

  nlsr evaluate --adapter checkpoints/runs/tuned --task sst2 --output checkpoints/runs/tuned.json

Without --adapter the base alone is evaluated. The tiny config takes 20 seconds on two CPU cores. Real data is
judged by the wording of refusals unless --judge names another judge: a model, which is loaded after the last
answer, a file of phrases, or a function (module:function, file.py:function):

  nlsr evaluate --config llama3_8b --adapter runs/tuned --task sst2 --judge qa_moderation \
      --judge_model DIR --output runs/tuned.json

--forbidden_set and --benign_set name public benchmarks, such as advbench and xstest; --data advbench=FILE reads a
local copy. --second_judge judges the same answers once more and measures Cohen's kappa of the two judges.

--tiny_benchmarks tinyBenchmarks.npz also asks the tinyBenchmarks and estimates the scores on the full benchmarks;
python -m experiments.convert_item_bank makes that file of the published tinyBenchmarks.pkl.

The output is one JSON object: scores in percent (hs, fa, over_refusal, benign_answered, odd, hs_by_topic; fa is
null with --task none), counts, seconds and versions. --responses writes all prompts and answers as JSON Lines. The
same inputs give the same bytes, except for the seconds.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import command, data_flags, mesh_flags, path_flags, study_flags
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.adapter import Adapter
    from nlsr_jax.study.config import ExamSettings, StudyConfig
    from nlsr_jax.study.config_files import Study
    from nlsr_jax.study.exam import Exam
    from nlsr_jax.study.stages import Base
    from nlsr_jax.study.worlds import World

study_flags.define_study_flags("JSON file to write.")
mesh_flags.define_mesh_flag()
path_flags.define_input("adapter", None, "PEFT directory; without it the base alone is evaluated.")
data_flags.define_task_flags("sst2", ", none")
flags.DEFINE_integer("forbidden", None, "Number of harmful requests; by default the config's.")
flags.DEFINE_integer("benign", None, "Number of harmless requests; by default the config's.")
flags.DEFINE_integer("rows", None, "Number of task rows; by default the config's.")
flags.DEFINE_integer("max_new_tokens", None, "Longest answer to a request, in tokens; by default the config's.")
flags.DEFINE_integer("task_tokens", None, "Longest answer to a task row, in tokens; by default the config's.")
flags.DEFINE_integer("batch_size", None, "Prompts per batch; by default the config's.")
flags.DEFINE_string("forbidden_set", None, "Harmful requests of real data: beavertails_prompts, or a benchmark.")
flags.DEFINE_string("benign_set", None, "Harmless requests of real data: alpaca, or a benchmark such as xstest.")
data_flags.define_judge_flags()
data_flags.define_judge_flags("second_", "A second judge, whose agreement with the first one is measured: ", "")
path_flags.define_output("responses", None, "JSONL file for the responses.")
path_flags.define_input("tiny_benchmarks", None, "Item bank, an .npz file: also ask the tinyBenchmarks.")
flags.DEFINE_list("tiny_sets", None, "Ask only these tinyBenchmarks, such as hellaswag,mmlu.")
FLAGS = flags.FLAGS

OUTPUTS = ("output", "responses")
SETS = {"forbidden_set": "forbidden", "benign_set": "benign"}
"""Flags of public sets of requests, and the roles of rows that take their place."""
COUNTS = ("forbidden", "benign", "rows", "max_new_tokens", "task_tokens", "batch_size")


def main(_) -> None:
    """Evaluate a model and write its scores."""
    from nlsr_jax.files.output import whole_file, write_text
    from nlsr_jax.formats.record import dump
    from nlsr_jax.study.score_files import dump_rows, print_table

    started = time.perf_counter()
    study = study_flags.open_study()
    config, settings = study.config, exam_settings(study.config.exam)
    check_flags(study)
    mesh_flags.open_mesh()  # opened again with the base; this call fails early if it cannot be
    record, rows = evaluation(study, settings)
    record["seconds"] = round(time.perf_counter() - started, 3)
    with whole_file(FLAGS.output, **replacing("output", config)) as file:
        write_text(file, dump(record))
        if FLAGS.responses:
            with whole_file(FLAGS.responses, **replacing("responses", config)) as lines:
                write_text(lines, dump_rows(rows))
    print_table(record)
    print(f"wrote {FLAGS.output}" + (f" and {FLAGS.responses}" if FLAGS.responses else ""))


def exam_settings(settings: "ExamSettings") -> "ExamSettings":
    """Return the config's exam settings with the changes from the flags."""
    given: dict[str, Any] = {name: FLAGS[name].value for name in COUNTS if FLAGS[name].value is not None}
    for name, value in given.items():
        if value < 1:
            advice = "; use --task none to skip the task" if name == "rows" else ""
            raise InputError(f"--{name} is {value}; expected at least 1{advice}")
    return dataclasses.replace(settings, **given)


def check_flags(study: "Study") -> None:
    """Check the flags before any file is opened.

    Raises:
      InputError: if a value is unknown, the world does not use a flag, or an output cannot be written.
    """
    from nlsr_jax.evaluation.tasks import TASKS
    from nlsr_jax.files.apart import check_outputs
    from nlsr_jax.files.output import check_free_file
    from nlsr_jax.study.exam import NO_TASK
    from nlsr_jax.study.judging import check_judge
    from nlsr_jax.study.real import check_sets

    config = study.config
    data_flags.check_task_name(study, (*TASKS, NO_TASK))
    check_sets(FLAGS.forbidden_set, FLAGS.benign_set)
    if config.world == "toy":
        for name in ("data", *SETS, "tiny_benchmarks"):
            if FLAGS[name].value:
                raise InputError(f"--{name} is for real data; --config {config.name} is a toy world")
    for name, role in SETS.items():
        if config.world == "policy" and FLAGS[name].value:
            raise InputError(f"--{name} is for public data sets; the policy world makes its own requests")
        if study.given.has(role, "test") and FLAGS[name].value:
            raise InputError(f"--{name} names a public set, but --data {role}=PATH gives requests of yours")
    if FLAGS.tiny_sets and not FLAGS.tiny_benchmarks:
        raise InputError("--tiny_sets needs the item bank --tiny_benchmarks, which is missing")
    check_judge(data_flags.judge_settings(study), config.world)
    if second := data_flags.second_judge_settings(study):
        check_judge(second, config.world, "second_judge")
    if not FLAGS.output:
        raise InputError("--output is missing; name the JSON file to write")
    check_outputs({f"--{name}": FLAGS[name].value for name in OUTPUTS})
    for name in OUTPUTS:
        if path := FLAGS[name].value:
            check_free_file(path, **replacing(name, config))


def replacing(name: str, config: "StudyConfig") -> dict[str, Any]:
    """Return what an output file may replace, for ``check_free_file`` and ``whole_file``.

    Args:
      name: name of the flag, one of ``OUTPUTS``.
      config: the study.
    """
    from nlsr_jax.files.ownership import json_with, lines_with

    foreign = {
        "output": json_with("config", "base", "task", "judge", "counts", "versions"),
        "responses": lines_with("kind", "prompt", "response", "verdict", others=("topics", "label", "score")),
    }
    return {"overwrite": FLAGS.overwrite, "inputs": study_flags.inputs(config), "foreign": foreign[name]}


def evaluation(study: "Study", settings: "ExamSettings") -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Evaluate the model that the flags select.

    Args:
      study: the study.
      settings: settings of the exam.

    Returns:
      The JSON object without its seconds, and an iterator over the responses as JSON objects.
    """
    from nlsr_jax.configs import base_of
    from nlsr_jax.formats.hugging_face import read_config, resolve
    from nlsr_jax.formats.peft import open_fitting
    from nlsr_jax.formats.record import versions
    from nlsr_jax.study.capabilities import load_benchmarks
    from nlsr_jax.study.exam import make_exam, mark, summarise
    from nlsr_jax.study.judging import describe_judge, open_judge
    from nlsr_jax.study.score_files import count_fields, response_rows, score_fields
    from nlsr_jax.study.second_judge import open_second, second_fields

    config = study.config
    place, chosen = base_of(config, FLAGS.base), data_flags.judge_settings(study)
    warnings: list[str] = []
    judge = open_judge(chosen, config.world, study_flags.noted(warnings))
    second = open_second(data_flags.second_judge_settings(study), config.world, study_flags.noted(warnings))
    file = open_fitting(FLAGS.adapter, read_config(resolve(place))) if FLAGS.adapter else None
    adapter, carried = (file.load(), file.carried) if file else (None, None)
    if file:
        study_flags.note_other_base("--adapter", file.layout, place, study_flags.noted(warnings))
    options = {name: value for name in SETS if (value := FLAGS[name].value)}
    tokenizer, world = study_flags.open_world(study, **options)
    exam = make_exam(world, FLAGS.task, forbidden=settings.forbidden, benign=settings.benign, rows=settings.rows)
    asked = None
    if FLAGS.tiny_benchmarks:
        asked = load_benchmarks(FLAGS.tiny_benchmarks, study.given.places, FLAGS.tiny_sets, study_flags.say)
    data_flags.check_not_trained_on(study.given, {"--adapter": FLAGS.adapter, "--base": place})
    responses, estimates = ask_model(config, settings, tokenizer, world, adapter, carried, exam, asked, warnings)
    marks = mark(world, exam, responses, judge)
    record = {
        "config": config.name,
        "base": place,
        "adapter": FLAGS.adapter,
        **({"carried": carried.describe()} if carried else {}),
        "task": FLAGS.task,
        **describe_judge(chosen, judge),
        **study_flags.describe_study(study, tokenizer),
        **asked_sets(study),
        "max_new_tokens": settings.max_new_tokens,
        "task_tokens": settings.task_tokens,
        **score_fields(summarise(exam, marks)),
        "counts": count_fields(exam, marks, responses),
        **second_fields(second, world, exam, responses, marks),
        "versions": versions(),
    }
    if warnings:
        record["warnings"] = warnings
    if asked is not None:
        record["tiny_benchmarks"] = estimates
    return record, response_rows(exam, responses, marks)


def asked_sets(study: "Study") -> dict[str, str | None]:
    """Return the public sets that the requests are from; None where the rows are the user's or the world's."""
    from nlsr_jax.study.real import BENIGN_SETS, FORBIDDEN_SETS

    usual = {"forbidden_set": FORBIDDEN_SETS[0], "benign_set": BENIGN_SETS[0]}
    public = {
        name for name, role in SETS.items() if study.config.world == "real" and not study.given.has(role, "test")
    }
    return {name: FLAGS[name].value or usual[name] if name in public else None for name in SETS}


def ask_model(
    config: "StudyConfig",
    settings: "ExamSettings",
    tokenizer: Tokenizer,
    world: "World",
    adapter: "Adapter | None",
    carried: Any,
    exam: "Exam",
    asked: Any,
    warnings: list[str],
) -> tuple[Any, Any]:
    """Load the base with the adapter's carried tensors, answer the exam, and release it to make room for a judge.

    Notes on the base are appended to ``warnings``.

    Returns:
      The responses, and the estimates of the tinyBenchmarks if requested.
    """
    from nlsr_jax.study.capabilities import run_benchmarks
    from nlsr_jax.study.exam import answer

    base = with_carried(study_flags.load_base(config, tokenizer, world, study_flags.noted(warnings)), carried)
    responses = answer(
        base,
        adapter,
        exam,
        max_new_tokens=settings.max_new_tokens,
        task_tokens=settings.task_tokens,
        batch_size=settings.batch_size,
    )
    return responses, run_benchmarks(base, adapter, asked or [], batch_size=settings.batch_size)


def with_carried(base: "Base", carried: Any) -> "Base":
    """Return a base with the carried tensors of an adapter's file; print a note about any that are skipped."""
    from nlsr_jax.formats.carried_fit import note_left_out
    from nlsr_jax.models.carried import apply_carried

    if not carried:
        return base
    for note in note_left_out(carried, base.model.config, FLAGS.adapter):
        study_flags.say(f"note: {note}")
    model, params = apply_carried(base.model, base.params, carried)
    return base._replace(model=model, params=params)


if __name__ == "__main__":
    command.run(main)
