r"""Repair many customers' adapters of one base by one command.

  nlsr fleet JOBS.jsonl --base MODEL [--pretrained MODEL] [--aligned DIR [--weak DIR]] \
      --calibration ROWS [--harmless ROWS] --output DIR [--workers N]

A row of JOBS is one job: {"finetuned": ADAPTER, "output": NAME}, and any other flag of nlsr realign by its name,
such as {"seed": 3, "sparsity": 0.97}, or {"keep": ROWS} with prompts of its task. The other flags of nlsr realign
hold for all jobs. Paths are relative to the working directory.

The base, its tokenizer, the calibration rows, the direction of the alignment and whatever else does not depend on a
customer's adapter are read or computed once. DIR/NAME receives what nlsr realign would write, byte for byte but for
dates and seconds, whole or not at all. A job that fails does not stop the others; the status is then 1.
DIR/fleet.json is the table of all jobs in JOBS, DIR/fleet.html its page.

After an interruption, run the same command again: it keeps every output whose settings and inputs are the same. If
they differ, the job fails, and --overwrite makes its output again.

--workers N runs the jobs in N processes, which suits a CPU. --together N repairs N adapters at the same time in
each process: on a CPU in threads; on an accelerator they go through the base in one pass, with the results of
separate passes up to rounding. For many machines, run the command on each with --share 1/8, --share 2/8 … and an
--output that all can access; then run it once without --share to write table and page. On a Ray cluster one command
is enough: --workers 8 --ray auto.

With --check the command checks every output as nlsr realign --check does. The status is 1 if a job failed, a check
fails or --only_if_passed withheld an output; otherwise it is 3 if a check has too few rows to tell.
"""

import dataclasses
import re
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from nlsr_jax.commands import command, mesh_flags, path_flags, realign
from nlsr_jax.commands.checked import end_with
from nlsr_jax.commands.helping import leave_out
from nlsr_jax.commands.processes import read_share, spawn, spawn_on_ray
from nlsr_jax.errors import InputError, argument

if TYPE_CHECKING:
    from nlsr_jax.fleet.folder import FleetFolder
    from nlsr_jax.fleet.jobs import Job
    from nlsr_jax.fleet.running import Outcome
    from nlsr_jax.fleet.tasks import Task

FLAGS = flags.FLAGS
_OF_ALL = ("output", "overwrite", "mesh")
"""Flags of ``realign`` that hold for the whole fleet."""
_OF_NONE = ("finetuned", "from_record", "distributed", "coordinator", "processes", "process")
"""Flags of ``realign`` that a fleet does not take."""
_OWN = ("workers", "together", "ray", "share", "part")
POSITIONAL = 1
"""Number of positional arguments: the file of jobs."""


class _Share(flags.FloatParser):
    """Parse a part of a fleet, such as ``2/8``, or the number of the setting ``share``."""

    def parse(self, argument):
        if isinstance(argument, str) and "/" in argument:
            read_share(argument)
            return argument
        return super().parse(argument)


flags.DEFINE_integer("workers", 1, "Processes, on this machine or, with --ray, on a cluster.", lower_bound=1)
flags.DEFINE_integer(
    "together",
    None,
    "Adapters that a process repairs at the same time; by default 1 with --workers or on an accelerator, else 2.",
    lower_bound=1,
)
flags.DEFINE_string("ray", None, "Run the workers on a Ray cluster: its address, auto, or local (starts one).")
flags.DEFINE(
    _Share(),
    "share",
    None,
    "Run only this part of the jobs, such as 2/8, and write no table. A number is the share of nlsr realign.",
    serializer=flags.ArgumentSerializer(),
    allow_override=True,
)
flags.DEFINE_string("part", None, "Given by --workers to its processes: NAME,2,8.")
leave_out("part", *_OF_NONE)


def main(arguments: Sequence[str]) -> None:
    """Run the jobs and write the table."""
    from nlsr_jax.fleet.jobs import read_jobs

    if len(arguments) != 2:
        raise InputError("name the file of jobs: nlsr fleet JOBS.jsonl --base MODEL ... --output DIR")
    if not FLAGS.output:
        raise InputError(f"{argument('output')} is missing; name the folder to write")
    given = [name for name in _OF_NONE if FLAGS[name].present]
    if given:
        where = "; it is in the rows of the file of jobs" if given[0] == "finetuned" else ""
        raise InputError(f"{argument(given[0])} is not a flag of a fleet{where}")
    if FLAGS.mesh and FLAGS.workers > 1:
        raise InputError(f"{argument('mesh')} lays the base over all devices: leave {argument('workers')} out")
    jobs = read_jobs(arguments[1])
    tasks = make_tasks(jobs)
    folder = _open_folder(arguments[1], tasks)
    if FLAGS.part:
        attempt, number, count = _read_part(FLAGS.part)
        _run(folder, attempt, _beginning_at(tasks, number, count), shows=True)
        return
    if isinstance(FLAGS.share, str):
        number, count = read_share(FLAGS.share)
        _end(_run(folder, uuid.uuid4().hex, tasks[number - 1 :: count], shows=True), "their lines above say why")
        return
    _write(folder, _run_all(folder, tasks))


def make_tasks(jobs: "Sequence[Job]") -> "list[Task]":
    """Return one task for each job: the flags of the command line, overridden by those of its row.

    Raises:
      InputError: if a row sets a flag that a job does not take, or a value that the flag cannot have.
    """
    line = list(sys.argv)
    try:
        return [_make_task(job, line) for job in jobs]
    finally:
        _parse(line)


def _make_task(job: "Job", line: list[str]) -> "Task":
    from nlsr_jax.fleet.jobs import flag_text
    from nlsr_jax.fleet.tasks import Task

    for name in job.settings:
        if name not in FLAGS or name in (*_OF_ALL, *_OF_NONE, *_OWN) or not _is_ours(name):
            raise InputError(f"{job.where}: {name!r} is not a flag of nlsr realign that a job can set")
    given = {"finetuned": job.finetuned, **job.settings}
    try:
        _parse([*line, *(f"--{name}={flag_text(name, value, job.where)}" for name, value in given.items())])
    except flags.Error as error:
        raise InputError(f"{job.where}: {re.sub(r'^flag --', '', ' '.join(str(error).split()))}") from None
    if isinstance(FLAGS.share, str):
        FLAGS["share"].unparse()
    try:
        settings, options = realign.asked()
    except InputError as error:
        return Task(job.output, job.finetuned, None, {}, error)
    if _fixes_the_share(job) and not options["refine"]:  # the prompts are those of other jobs
        if "harmless" not in job.settings:
            settings = dataclasses.replace(settings, harmless=None, harmless_field=None)
        if "keep" not in job.settings:
            settings = dataclasses.replace(settings, keep=None, keep_field=None)
    return Task(job.output, job.finetuned, settings, options)


def _fixes_the_share(job: "Job") -> bool:
    """Return whether a row's own settings fix the share of entries that the command line refines."""
    return bool({*realign.FIXING, "refine", "preset"} & {*job.settings})


def _parse(line: list[str]) -> None:
    FLAGS.unparse_flags()
    FLAGS(line)


def _is_ours(name: str) -> bool:
    return not str(FLAGS.find_module_defining_flag(name)).startswith("absl.")


def _open_folder(jobs: str, tasks: "Sequence[Task]") -> "FleetFolder":
    from nlsr_jax.fleet.folder import FleetFolder

    read = {f"{task.output}'s adapter": task.finetuned for task in tasks}
    return FleetFolder(FLAGS.output, {"JOBS": jobs, **path_flags.inputs(), **read})


def _run_all(folder: "FleetFolder", tasks: "Sequence[Task]") -> "list[Outcome]":
    """Run the tasks in as many processes as the flags say; this process runs those that a dead one has left."""
    attempt, alone = uuid.uuid4().hex, FLAGS.workers == 1 and not FLAGS.ray
    if not alone:
        count, line = min(FLAGS.workers, len(tasks)), sys.argv[1:]

        def arguments(part: int) -> list[str]:
            return [*line, f"--part={attempt},{part},{count}"]

        if FLAGS.ray:
            spawn_on_ray("nlsr_jax.commands.fleet", arguments, count, FLAGS.ray)
        else:
            spawn("nlsr_jax.commands.fleet", arguments, count)
    return _run(folder, attempt, tasks, shows=alone)


def _run(folder: "FleetFolder", attempt: str, tasks: "Sequence[Task]", *, shows: bool) -> "list[Outcome]":
    from nlsr_jax.fleet.running import Fleet

    mesh = mesh_flags.open_mesh() if shows else None
    fleet = Fleet(folder, attempt, overwrite=FLAGS.overwrite, mesh=mesh, together=_together(shows))
    return fleet.run(tasks, _show if shows else lambda outcome: None)


def _together(runs: bool) -> int:
    """Return how many adapters this process repairs at the same time."""
    from nlsr_jax import hardware

    if FLAGS.together is not None or not runs:
        return FLAGS.together or 1
    return 1 if FLAGS.workers > 1 or FLAGS.ray or FLAGS.mesh or hardware.shares_passes() else 2


def _show(outcome: "Outcome") -> None:
    """Print the outcome of a task."""
    if outcome.error is not None:
        text = outcome.error if outcome.withheld else f"failed: {outcome.error}"
    else:
        text = f"done in {outcome.seconds:.1f} s" if outcome.seconds else "done before"
    print(f"{outcome.task.output}: {text}", file=sys.stderr, flush=True)


def _write(folder: "FleetFolder", outcomes: "list[Outcome]") -> None:
    """Write table and page, and end with the status of the run."""
    from nlsr_jax.fleet.table import describe_jobs, write_table

    rows = describe_jobs(outcomes, folder)
    counts = write_table(rows, folder)
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "failed")
    adapters = "1 adapter" if len(outcomes) == 1 else f"{len(outcomes)} adapters"
    print(f"{adapters}: {told}; wrote {FLAGS.output} (see {FLAGS.output}/fleet.html)")
    _end(outcomes, f"see {FLAGS.output}/fleet.json")
    checks = [row.get("check") for row in rows]
    end_with(1 if counts["withheld"] or "fails" in checks else 3 if "undecided" in checks else 0)


def _end(outcomes: "Sequence[Outcome]", advice: str) -> None:
    """Raise InputError if a task has no output because it failed."""
    failed = sum(outcome.error is not None and not outcome.withheld for outcome in outcomes)
    if failed:
        raise InputError(f"{failed} of {len(outcomes)} jobs failed; {advice}")


def _read_part(text: str) -> tuple[str, int, int]:
    attempt, *numbers = text.split(",")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"{argument('part')} is {text!r}; it is given by {argument('workers')} alone")
    number, count = map(int, numbers)
    return attempt, number, count


def _beginning_at(tasks: "Sequence[Task]", number: int, count: int) -> "list[Task]":
    """Return all tasks, those of one of ``count`` processes first, so that the processes begin apart."""
    first = len(tasks) * (number - 1) // count
    return [*tasks[first:], *tasks[:first]]


if __name__ == "__main__":
    command.run(main, POSITIONAL)
