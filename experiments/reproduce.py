"""Reproduce the tiny study from scratch: base, alignment, attack, repairs and results table.

  python -m experiments.reproduce --output checkpoints/runs/tiny [--seeds 5,6,7 --tasks sst2,ag_news,gsm8k]

Trains the base, then the alignment for each seed and the fine-tuning for each task. Repairs with a random mask, as
published and as recommended, and evaluates all models on the same held-out requests. Seeds vary the alignment, the
customer's rows, the training and the repair over one base and one world. On two CPU cores: 5 minutes for the base,
then 2 minutes per seed. --base uses an existing base; --objectives adds a table of the five alignment objectives,
--sweeps adds tables over amplification and sparsity (2 minutes per task and seed).

The output holds table.json (a row for each method, task and seed), README.md (a model card with the recipe and
the means), the base and the adapters of the first seed in Hugging Face and PEFT format, and report.html on the
first seed and task. If a run was killed, run the same command again to complete it.

--everything continues with all tables and figures of the paper, on the new base and for the same seeds: rows,
tables, figures and page are written to the folder with the output's name plus "-laboratory" (see
experiments.tables; two hours on two cores for three seeds). --quick uses the shipped base, one seed and one task,
and only the tables and figures that need few fine-tunings: eight minutes.

checkpoints/tiny-llama3 was made with --seeds 5,6,7,8,9 --objectives. Settings are chosen on seeds from 100 on;
results of earlier settings on seeds 0 to 9 had been seen before.
"""

from absl import flags

from nlsr_jax.commands import command, ending, path_flags
from nlsr_jax.errors import InputError

path_flags.define_output("output", "checkpoints/runs/tiny", "Folder to write; it is complete or absent.")
path_flags.define_overwrite()
flags.DEFINE_list("seeds", ["5", "6", "7"], "Seeds of alignment, customer's rows, training and repair.")
flags.DEFINE_list("tasks", ["sst2", "ag_news", "gsm8k"], "The customers' tasks.")
flags.DEFINE_list("poison_ratios", None, "Shares of harmful rows; by default the config's, 0.05.")
path_flags.define_input("base", None, "Use this base instead of training one.")
flags.DEFINE_bool("objectives", False, "Also align the base with each of the five objectives.")
flags.DEFINE_bool("sweeps", False, "Also vary the amplification and the sparsity of the published method.")
flags.DEFINE_bool("everything", False, "Then make all tables and figures of the paper.")
flags.DEFINE_bool("quick", False, "One seed and task on the shipped base; with --everything, only some tables.")
flags.DEFINE_integer("workers", 1, "Processes for tables and figures.", lower_bound=1)
FLAGS = flags.FLAGS


def main(_) -> None:
    """Make the study and write its tables."""
    import sys

    from nlsr_jax import configs
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.devices import open_devices
    from nlsr_jax.study.reproduction import Plan, reproduce
    from nlsr_jax.sweep.store import check_store

    if FLAGS.quick:
        quick = {"seeds": ["5"], "tasks": ["sst2"], "base": str(SHIPPED / "base")}
        for name, value in quick.items():
            if not FLAGS[name].present:
                FLAGS[name].value = value

    config = configs.get("tiny")
    plan = Plan(
        seeds=command.numbers("seeds", int, FLAGS.seeds),
        tasks=tuple(FLAGS.tasks),
        poison_ratios=command.numbers("poison_ratios", float, FLAGS.poison_ratios or [config.poison_ratio]),
        base=FLAGS.base,
        objectives=FLAGS.objectives,
        sweeps=FLAGS.sweeps,
    )
    open_devices()
    if FLAGS.everything:
        check_store(_laboratory(), {"--base": FLAGS.base})
    summary = reproduce(
        config,
        plan,
        FLAGS.output,
        overwrite=FLAGS.overwrite,
        show=True,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(summary)
    print(f"wrote {FLAGS.output} (see {FLAGS.output}/report.html)")
    if FLAGS.everything:
        _everything()


def _laboratory():
    """Return the folder of rows, tables and figures, beside the output."""
    import os
    import pathlib

    study = pathlib.Path(os.path.abspath(FLAGS.output))  # noqa: PTH100 - resolve() would follow a link in its place
    return study.parent / f"{study.name}-laboratory"


def _everything() -> None:
    """Make the tables and figures on the base of the output."""
    import pathlib

    from experiments.laboratory_flags import QUICK_FIGURES, QUICK_TABLES

    study, laboratory = pathlib.Path(FLAGS.output), _laboratory()
    asked = {
        "tables": f"--table={QUICK_TABLES if FLAGS.quick else 'all'}",
        "figures": f"--figure={QUICK_FIGURES if FLAGS.quick else 'all'}",
    }
    given = [
        f"--seeds={','.join(FLAGS.seeds)}",
        f"--base={study / 'base'}",
        f"--workers={FLAGS.workers}",
        f"--output={laboratory}",
    ]
    for program, numbers in asked.items():
        if any(ending.run_tied([ending.python(f"experiments.{program}", numbers, *given)])):
            raise InputError(f"experiments.{program} failed; its results so far are in {laboratory}")


if __name__ == "__main__":
    command.run(main)
