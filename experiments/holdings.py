"""Repair what users hold, with fixed settings, and measure it: the table of situations.

  python -m experiments.holdings --output checkpoints/runs/holdings [--situations instruct --tasks sst2 --seeds 102]

The situations are an instruct model with a fresh LoRA adapter (instruct), the same with the pretrained model at
hand (instruct_pretrained), a weak, an aligned and a fine-tuned adapter of one lineage (lineage), and an instruct
model whose weights were all fine-tuned (weights). The instruct model is the base of --models with its adapter dpo
merged. Each case is repaired by gain with one threshold for the
adapter, for every --betas and --shares, and evaluated on held-out requests.

The output holds table.json: one row for each model with HS, FA, over-refusal and harmless requests answered, in per
cent. Rows are stored as soon as they are made, in rows.jsonl; a killed run continues with the missing ones. On two
CPU cores a case takes two minutes.
"""

from absl import flags

from nlsr_jax.commands import command, path_flags

path_flags.define_output("output", "checkpoints/runs/holdings", "Folder of the rows; an existing one is continued.")
path_flags.define_input("models", None, "Folder with base and dpo; by default the shipped tiny-llama3.")
flags.DEFINE_list(
    "situations",
    ["instruct", "instruct_pretrained", "lineage", "weights"],
    "What the owners hold.",
)
flags.DEFINE_list("tasks", ["sst2", "gsm8k", "ag_news"], "The customers' tasks.")
flags.DEFINE_list("poison_ratios", ["0.05", "0.2"], "Shares of harmful rows.")
flags.DEFINE_list(
    "learning_rates", ["6e-4", "4e-4"], "Learning rate of a fresh adapter for each of --poison_ratios."
)
flags.DEFINE_list("seeds", ["101", "102", "103"], "Seeds of the customer's rows, the training and the repair.")
flags.DEFINE_list("betas", ["0", "1", "2"], "Pre-amplification coefficients.")
flags.DEFINE_list("shares", ["0.003", "0.01", "0.02", "0.03", "0.05"], "Shares of the entries to transplant.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Make the table."""
    import sys

    from nlsr_jax import configs
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.devices import open_devices
    from nlsr_jax.sweep.holdings import HoldingsPlan, make_holdings, means

    plan = HoldingsPlan(
        situations=tuple(FLAGS.situations),
        tasks=tuple(FLAGS.tasks),
        poison_ratios=command.numbers("poison_ratios", float, FLAGS.poison_ratios),
        seeds=command.numbers("seeds", int, FLAGS.seeds),
        rates=command.numbers("learning_rates", float, FLAGS.learning_rates),
        betas=command.numbers("betas", float, FLAGS.betas),
        shares=command.numbers("shares", float, FLAGS.shares),
    )
    open_devices()
    rows = make_holdings(
        configs.get("tiny"),
        plan,
        FLAGS.models or SHIPPED,
        FLAGS.output,
        show=True,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(means(rows))
    print(f"wrote {FLAGS.output}/table.json")


if __name__ == "__main__":
    command.run(main)
