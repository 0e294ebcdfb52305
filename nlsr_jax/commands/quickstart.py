"""The whole story on a real trained model, in two minutes: aligned, broken by fine-tuning, repaired.

  nlsr quickstart [--output checkpoints/runs/quickstart --seed 5 --task sst2]

Takes the shipped base and its aligned adapters, fine-tunes on a customer's rows of which 5 % are harmful,
repairs the adapter with a random mask, as the paper does and as this project recommends, and asks every model
the same held-out requests. Two minutes on two CPU cores. The output holds table.json, report.html, and the
fine-tuned and the repaired adapter in PEFT format. With --align the alignment is trained anew too, with the
seed of the run (30 seconds more).
"""

from typing import Any

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError

path_flags.define_output(
    "output", "checkpoints/runs/quickstart", "Folder to write; it appears whole or not at all."
)
path_flags.define_overwrite()
flags.DEFINE_integer("seed", 5, "Seed of the customer's rows, of the training and of the repair.")
flags.DEFINE_enum("task", "sst2", ["sst2", "ag_news", "gsm8k"], "The customer's task.")
flags.DEFINE_float("poison_ratio", None, "Share of harmful rows; by default the config's, 0.05.")
flags.DEFINE_bool("align", False, "Train the alignment anew instead of taking the shipped adapters.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Run the story, print the table and write the report."""
    import sys

    from nlsr_jax import configs
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.data.poison import share
    from nlsr_jax.devices import open_devices
    from nlsr_jax.files.output import check_free, whole_directory
    from nlsr_jax.files.ownership import foreign_study
    from nlsr_jax.formats.peft import load_adapter, save_adapter
    from nlsr_jax.study.bench import Bench, story
    from nlsr_jax.study.case import Aligned, Case, align, finetune
    from nlsr_jax.study.exam import make_exam
    from nlsr_jax.study.pretraining import load_base
    from nlsr_jax.study.storytelling import print_table, write_story
    from nlsr_jax.study.toy import ToyWorld

    if not 0 <= FLAGS.seed < 2**32:
        raise InputError(f"--seed is {FLAGS.seed}; expected 0 to {2**32 - 1}")
    config = configs.get("tiny")
    inputs: dict[str, Any] = {"base of the tiny study": config.base}
    inputs |= {} if FLAGS.align else {f"shipped adapter {name}": SHIPPED / name for name in ("sft", "dpo")}
    replacing: dict[str, Any] = {"overwrite": FLAGS.overwrite, "inputs": inputs, "foreign": foreign_study}
    check_free(FLAGS.output, **replacing)
    case = Case(FLAGS.task, config.poison_ratio if FLAGS.poison_ratio is None else FLAGS.poison_ratio, FLAGS.seed)
    share(config.finetuning.rows, case.poison_ratio)
    open_devices()

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    world = ToyWorld()
    base = load_base(config.base, world)
    if FLAGS.align:
        note("aligning: SFT on safe answers, then DPO")
        alignment = align(base, world, config, FLAGS.seed, show=True)
    else:
        weak, aligned = (load_adapter(SHIPPED / name, base.model.config) for name in ("sft", "dpo"))
        alignment = Aligned(weak, aligned, 0.0)
    exam = make_exam(
        world, case.task, forbidden=config.exam.forbidden, benign=config.exam.benign, rows=config.exam.rows
    )
    bench = Bench(base, world, config, case, exam)
    note(f"fine-tuning on {case.task}; {case.poison_ratio:.0%} of the rows are harmful")
    tuned = finetune(base, world, config, alignment.aligned, case, show=True)
    outcomes = list(story(bench, alignment, tuned, note=note))
    with whole_directory(FLAGS.output, **replacing) as folder:
        write_story(folder, bench, outcomes, tuned.adapter)
        repaired = outcomes[-1].repaired
        assert repaired is not None
        for name, adapter in (("finetuned", tuned.adapter), ("realigned", repaired.adapter)):
            save_adapter(adapter, folder / name, base_model_name_or_path=config.base)
    print_table([outcome.row for outcome in outcomes])
    print(f"report: {FLAGS.output}/report.html")


if __name__ == "__main__":
    command.run(main)
