"""Repair what users hold, with fixed settings, and measure it: the table of situations.

  python -m experiments.holdings --output checkpoints/runs/holdings [--situations instruct --tasks sst2 --seeds 102]
  python -m experiments.holdings --config smollm2 --models checkpoints/runs/policy --data sst2=DIR \
      --data ag_news=DIR --output checkpoints/runs/real

The situations are an instruct model with a fresh LoRA adapter (instruct), the same with the pretrained model at
hand (instruct_pretrained) and in the rank axes as they were trained (instruct_pretrained_own), a weak, an aligned
and a fine-tuned adapter of one lineage (lineage), and an instruct model of which all weights were fine-tuned
(weights). The instruct model is the base with the adapter dpo of --models merged. Each case is repaired by gain
with one threshold for the adapter, for every --betas and --shares, and evaluated on held-out requests; --published
adds the paper's settings, and --peers other repairs.

The tiny config takes base and adapters from --models and aligns a lineage anew for every seed. Other configs
take the weak and the aligned adapter from sft and dpo in --models, which nlsr align makes once, and keep the
fine-tuned adapters in the output. --quick makes a part of its table with one fine-tuning.

The output holds table.json: one row for each model with HS, FA, over-refusal and harmless requests answered, in per
cent. Rows are stored as soon as they are made, in rows.jsonl; a killed run continues with the missing ones. On two
CPU cores a case takes two minutes with the tiny config, and with smollm2 half an hour.
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import command, data_flags, path_flags, study_flags

if TYPE_CHECKING:
    from nlsr_jax.study.config_files import Study
    from nlsr_jax.sweep.holdings import HoldingsPlan, Models

path_flags.define_output("output", "checkpoints/runs/holdings", "Folder of the rows; an existing one is continued.")
study_flags.define_config_flag()
path_flags.define_input("base", None, "Other than tiny: the base; by default the config's.")
data_flags.define_data_flag()
data_flags.define_judge_flags()
path_flags.define_input("models", None, "Folder of the models; by default the shipped one.")
flags.DEFINE_list("situations", None, "What the owners hold; by default all that the config has.")
flags.DEFINE_list("tasks", None, "The customers' tasks.")
flags.DEFINE_list("poison_ratios", None, "Shares of harmful rows.")
flags.DEFINE_list("learning_rates", None, "Learning rate of a fresh adapter for each of --poison_ratios.")
flags.DEFINE_list("seeds", None, "Seeds of the customer's rows, the training and the repair.")
flags.DEFINE_list("betas", None, "Pre-amplification coefficients.")
flags.DEFINE_list("shares", None, "Shares of the entries to transplant.")
flags.DEFINE_list(
    "peers",
    None,
    "Other repairs, NAME=SETTING: safelora with its tau, resta with its gamma, safemerge with the weight of the "
    "fine-tuned adapter, lssf with its alpha.",
)
flags.DEFINE_float("strength", None, "Strength of repairs with a refined share; by default the recommended one.")
flags.DEFINE_bool("published", None, "Repair with the paper's settings, too; by default with smollm2.")
flags.DEFINE_bool("keeps", None, "Repair with prompts of the task, too; by default with the tiny config.")
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
    if FLAGS.peers is not None:
        changes["peers"] = read_peers(FLAGS.peers)
    for name in ("published", "keeps", "strength"):
        if FLAGS[name].value is not None:
            changes[name] = FLAGS[name].value
    plan = PLANS.get(world, PLANS["policy"])
    return dataclasses.replace(QUICK if FLAGS.quick else plan, **changes)


def read_peers(given: list[str]) -> dict[str, tuple[float, ...]]:
    """Return the settings of each peer, as ``--peers`` names them."""
    from nlsr_jax.errors import InputError

    found: dict[str, tuple[float, ...]] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise InputError(f"--peers has {one!r}; expected NAME=SETTING, such as resta=1.0")
        found[name] = (*found.get(name, ()), *command.numbers("peers", float, [value]))
    return found


def open_models(study: "Study") -> "Models":
    """Return the models of a study, as the flags name them.

    Raises:
      InputError: if a flag is missing or superfluous, or a folder is invalid.
    """
    from nlsr_jax.configs.smollm2 import SHIPPED as SHIPPED_POLICY
    from nlsr_jax.configs.tiny import SHIPPED
    from nlsr_jax.errors import InputError
    from nlsr_jax.study.judging import RULES, open_judge
    from nlsr_jax.sweep.holdings import kept_models, toy_models

    config, judge = study.config, data_flags.judge_settings(study)
    if config.world == "toy":
        for name in ("base", "data", "judge"):
            if FLAGS[name].value:
                raise InputError(f"--{name} is for other worlds; the toy world takes its base from --models")
        return toy_models(FLAGS.models or SHIPPED)
    study.given.check_apart(make_plan(config.world).tasks)
    own = judge.name != RULES[config.world] or config.world == "real"
    opened = open_judge(judge, config.world, study_flags.note) if own else None
    return kept_models(*study_flags.open_base(study, opened), FLAGS.models or SHIPPED_POLICY)


def main(_) -> None:
    """Make the table."""
    import sys

    from nlsr_jax.data.toy_tasks import TASKS
    from nlsr_jax.devices import open_devices
    from nlsr_jax.sweep.holdings import check_holdings, make_holdings
    from nlsr_jax.sweep.holdings_means import beside_aligned, means

    study = study_flags.open_study()
    plan = make_plan(study.config.world)
    check_holdings(plan, (*TASKS, *study.given.tasks))
    open_devices()
    rows = make_holdings(
        study.config,
        plan,
        open_models(study),
        FLAGS.output,
        show=True,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(means(rows))
    if study.config.world != "toy":
        print(f"\n{beside_aligned(rows)}")
    print(f"wrote {FLAGS.output}/table.json")


if __name__ == "__main__":
    command.run(main)
