"""Align a base: SFT on safe answers (the weak adapter), then DPO, ORPO, KTO or SimPO on preferences.

  nlsr align --objective sft --output checkpoints/runs/sft
  nlsr align --objective dpo --start checkpoints/runs/sft --output checkpoints/runs/dpo

The tiny config takes 15 to 30 seconds per stage on two CPU cores. The output is a PEFT adapter with the metrics
of its training. --start continues training an adapter, which is then also the reference policy of DPO and KTO;
without it, training starts from a new adapter. The paper merges the SFT adapter into the base before the preference
stage; here the aligned adapter continues from it, so that NLSR's amplification has a weak adapter to start from.
If a run was killed, run the same command again to resume it.
"""

from absl import flags

from nlsr_jax.commands import command, mesh_flags, study_flags, training_flags
from nlsr_jax.errors import InputError

study_flags.define_study_flags("Folder for the PEFT adapter.")
mesh_flags.define_mesh_flag()
training_flags.define_training_flags()
training_flags.define_adapter_flags()
flags.DEFINE_enum("objective", "dpo", ["sft", "dpo", "orpo", "kto", "simpo"], "Training objective.")
flags.DEFINE_float("beta", None, "β of the preference objective; by default 0.1, SimPO 2.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Train and write an aligned adapter."""
    import dataclasses

    from nlsr_jax.study.case import alignment_rows, stage_key
    from nlsr_jax.training.settings import check_training

    study = training_flags.changed_study()
    if FLAGS.objective not in study.config.alignment:
        known = ", ".join(study.config.alignment)
        raise InputError(f"--objective is {FLAGS.objective}; --config {study.config.name} has {known}")
    stage = training_flags.changed_stage(study.config.aligning(FLAGS.objective, anew=not FLAGS.start))
    if FLAGS.objective == "kto" and stage.rows < 2:
        raise InputError(f"--rows is {stage.rows}; --objective kto needs at least 2: a good and a bad answer")
    if FLAGS.beta is not None:
        if FLAGS.objective == "sft":
            raise InputError("--beta is for the preference objectives; --objective sft does not use it")
        stage = dataclasses.replace(stage, training=dataclasses.replace(stage.training, beta=FLAGS.beta))
        check_training(stage.training)
    name = f"align {FLAGS.objective}"
    key = stage_key(FLAGS.seed, name)

    def draw(world):
        return alignment_rows(key, world, FLAGS.objective, stage.rows)

    training_flags.write_adapter(key, study, stage.training, name, draw)


if __name__ == "__main__":
    command.run(main)
