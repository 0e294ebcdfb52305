"""Align a base: SFT on safe answers (the weak adapter), then DPO, ORPO, KTO or SimPO on preferences.

  python -m experiments.align --objective sft --output checkpoints/runs/sft
  python -m experiments.align --objective dpo --start checkpoints/runs/sft --output checkpoints/runs/dpo

The tiny config takes 15 to 30 seconds a stage on two CPU cores. The output is a PEFT adapter with the metrics
of its training. --start goes on with an adapter, which is then also the reference policy of DPO and KTO;
without it a new adapter starts. The paper's rows merge the SFT adapter into the base before the preference
stage; here the aligned adapter goes on from it, so that NLSR's amplification has a weak adapter to start from.
A run that was killed goes on where it was when it is started again.
"""

from absl import flags

from experiments import command, study_flags

study_flags.define_study_flags("Folder to write the PEFT adapter to.")
study_flags.define_training_flags()
flags.DEFINE_enum("objective", "dpo", ["sft", "dpo", "orpo", "kto", "simpo"], "What is optimised.")
flags.DEFINE_string("start", None, "PEFT directory of the adapter to go on with.")
flags.DEFINE_float("beta", None, "β of the preference objective; by default 0.1, SimPO 2.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Train and write an aligned adapter."""
    import dataclasses

    import jax

    from nlsr_jax.random_streams import stream

    config = study_flags.get_config()
    stage = study_flags.changed_stage(config.alignment[FLAGS.objective])
    if FLAGS.beta is not None:
        stage = dataclasses.replace(stage, training=dataclasses.replace(stage.training, beta=FLAGS.beta))
    study_flags.check_output()
    base, world = study_flags.open_base(config)
    key = stream(jax.random.key(FLAGS.seed), f"align {FLAGS.objective}")
    draw = {"sft": world.safe_rows, "kto": world.unpaired}.get(FLAGS.objective, world.preferences)
    rows = draw(stream(key, "rows"), stage.rows)
    study_flags.train_and_write(key, base, config, stage.training, rows, f"align {FLAGS.objective}")


if __name__ == "__main__":
    command.run(main)
