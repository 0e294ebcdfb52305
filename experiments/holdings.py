"""Repair what users hold, with fixed settings, and measure it: the table of situations.

  python -m experiments.holdings --output checkpoints/runs/holdings [--situations instruct --tasks sst2 --seeds 102]
  python -m experiments.holdings --config smollm2 --models checkpoints/runs/policy --data sst2=DIR \
      --data ag_news=DIR --output checkpoints/runs/real

The situations are an instruct model with a fresh LoRA adapter (instruct), the same with the pretrained model at
hand (instruct_pretrained), a weak, an aligned and a fine-tuned adapter of one lineage (lineage), and an instruct
model whose weights were all fine-tuned (weights). The instruct model is the base with the adapter dpo of --models
merged. Each case is repaired by gain with one threshold for the adapter, for every --betas and --shares, and
evaluated on held-out requests; --published adds the paper's settings.

The tiny config takes base and adapters from --models and aligns a lineage anew for every seed. The smollm2 config
takes the weak and the aligned adapter from sft and dpo in --models, which nlsr align makes once, and keeps the
fine-tuned adapters in the output. --quick makes a part of its table with one fine-tuning.

The output holds table.json: one row for each model with HS, FA, over-refusal and harmless requests answered, in per
cent. Rows are stored as soon as they are made, in rows.jsonl; a killed run continues with the missing ones. On two
CPU cores a case takes two minutes with the tiny config, and with smollm2 half an hour.
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import command, path_flags

if TYPE_CHECKING:
    from nlsr_jax.study.config import StudyConfig
    from nlsr_jax.sweep.holdings import HoldingsPlan, Models

path_flags.define_output("output", "checkpoints/runs/holdings", "Folder of the rows; an existing one is continued.")
flags.DEFINE_enum("config", "tiny", ["tiny", "smollm2"], "The study.")
path_flags.define_input("base", None, "smollm2: the base; by default the config's.")
path_flags.define_named_inputs("data", "smollm2: NAME=PATH, the folder of a task's rows.")
path_flags.define_input("models", None, "Folder of the models; by default the shipped one.")
flags.DEFINE_list("situations", None, "What the owners hold; by default all that the config has.")
flags.DEFINE_list("tasks", None, "The customers' tasks.")
flags.DEFINE_list("poison_ratios", None, "Shares of harmful rows.")
flags.DEFINE_list("learning_rates", None, "Learning rate of a fresh adapter for each of --poison_ratios.")
flags.DEFINE_list("seeds", None, "Seeds of the customer's rows, the training and the repair.")
flags.DEFINE_list("betas", None, "Pre-amplification coefficients.")
flags.DEFINE_list("shares", None, "Shares of the entries to transplant.")
flags.DEFINE_bool("published", None, "Repair with the paper's settings, too; by default with smollm2.")
flags.DEFINE_bool("quick", False, "smollm2: one case, in part.")
FLAGS = flags.FLAGS

LISTS = {
    "situations": str,
    "tasks": str,
    "poison_ratios": float,
    "learning_rates": float,
    "seeds": int,
    "betas": float,
    "shares": float,
}


def make_plan(world: str) -> "HoldingsPlan":
    """Return the plan of a world with the changes from the flags."""
    import dataclasses

    from nlsr_jax.errors import InputError
    from nlsr_jax.sweep.holdings import PLANS, QUICK

    if FLAGS.quick and world == "toy":
        raise InputError("--quick is for --config smollm2")
    changes: dict[str, Any] = {}
    for name, kind in LISTS.items():
        given: Any = FLAGS[name].value
        if given is not None:
            read = tuple(given) if kind is str else command.numbers(name, kind, given)
            changes["rates" if name == "learning_rates" else name] = read
    if FLAGS.published is not None:
        changes["published"] = FLAGS.published
    return dataclasses.replace(QUICK if FLAGS.quick else PLANS[world], **changes)


def open_models(config: "StudyConfig") -> "Models":
    """Return the models of a study, as the flags name them.

    Raises:
      InputError: if a flag is missing or superfluous, or a folder is invalid.
    """
    from nlsr_jax.commands import study_flags
    from nlsr_jax.configs.smollm2 import SHIPPED as SHIPPED_POLICY
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.errors import InputError
    from nlsr_jax.sweep.holdings import kept_models, toy_models

    if config.world == "toy":
        for name in ("base", "data"):
            if FLAGS[name].value:
                raise InputError(f"--{name} is for --config smollm2; --config tiny takes its base from --models")
        return toy_models(FLAGS.models or SHIPPED)
    return kept_models(*study_flags.open_base(config), FLAGS.models or SHIPPED_POLICY)


def main(_) -> None:
    """Make the table."""
    import sys

    from nlsr_jax import configs
    from nlsr_jax.devices import open_devices
    from nlsr_jax.sweep.holdings import check_holdings, make_holdings
    from nlsr_jax.sweep.holdings_means import means

    config = configs.get(FLAGS.config)
    plan = make_plan(config.world)
    check_holdings(plan)
    open_devices()
    rows = make_holdings(
        config,
        plan,
        open_models(config),
        FLAGS.output,
        show=True,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(means(rows))
    print(f"wrote {FLAGS.output}/table.json")


if __name__ == "__main__":
    command.run(main)
