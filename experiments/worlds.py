"""Repair adapters of other worlds than the one of the development: does the recommended setting hold there?

  python -m experiments.worlds --output checkpoints/runs/worlds
  python -m experiments.worlds --output checkpoints/runs/worlds --worlds few_rows,rank_4 --situations lineage

Each world is one change of the tiny study (nlsr_jax/study/variations.py): calibration rows of other vocabulary or
other refusals than the alignment's, or few of them; more poison, another learning rate, rank or set of modules;
another base. Each has a row for the aligned model, the fine-tuned one, and the recommended repair with its fixed
share of entries, with a refined one, and with one that keeps the answers to prompts of the task.

The output holds table.json: the rows of experiments.holdings, with the name of the world. A killed run continues
with the missing rows. On two CPU cores a world takes three minutes; other_words trains a base first, in five.
"""

from absl import flags

from nlsr_jax.commands import command, path_flags

path_flags.define_output("output", "checkpoints/runs/worlds", "Folder of the rows; an existing one is continued.")
flags.DEFINE_list("worlds", None, "Names of worlds; by default all but those of the development.")
flags.DEFINE_list("situations", ["instruct", "lineage"], "What the owners hold.")
flags.DEFINE_list("tasks", ["sst2"], "The customers' tasks.")
flags.DEFINE_list("seeds", ["0"], "Seeds of the customer's rows, the training and the repair.")
flags.DEFINE_float("poison_ratio", 0.05, "Share of harmful rows, where the world does not set it.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Make the table."""
    import sys

    from nlsr_jax import configs
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.devices import open_devices
    from nlsr_jax.sweep.worlds import WorldsPlan, check_worlds, make_worlds, worlds_table

    plan = WorldsPlan(
        situations=tuple(FLAGS.situations),
        tasks=tuple(FLAGS.tasks),
        seeds=tuple(command.numbers("seeds", int, FLAGS.seeds)),
        poison_ratio=FLAGS.poison_ratio,
        **({"worlds": tuple(FLAGS.worlds)} if FLAGS.worlds else {}),
    )
    check_worlds(plan)
    open_devices()
    rows = make_worlds(
        configs.get,
        plan,
        SHIPPED,
        FLAGS.output,
        show=True,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(worlds_table(rows))
    print(f"wrote {FLAGS.output}/table.json")


if __name__ == "__main__":
    command.run(main)
