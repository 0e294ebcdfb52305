"""Fine-tune an aligned adapter on a customer's task, of whose rows a share is harmful.

  python -m experiments.finetune --config tiny --start checkpoints/runs/dpo --task sst2 --poison_ratio 0.05 \
      --output checkpoints/runs/tuned

The tiny config takes 30 seconds on two CPU cores. The output is a PEFT adapter with the metrics of its
training. A run that was killed goes on where it was when it is started again.
"""

from absl import flags

from experiments import command, study_flags

study_flags.define_study_flags("Folder to write the PEFT adapter to.")
study_flags.define_training_flags()
flags.DEFINE_enum("task", "sst2", ["sst2", "ag_news", "gsm8k"], "The customer's task.")
flags.DEFINE_float("poison_ratio", None, "Share of harmful rows; by default the config's.")
flags.DEFINE_string("start", None, "PEFT directory of the aligned adapter; without it a new adapter starts.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Train and write a fine-tuned adapter."""
    import jax

    from nlsr_jax.random_streams import stream

    config = study_flags.get_config()
    stage = study_flags.changed_stage(config.finetuning)
    ratio = config.poison_ratio if FLAGS.poison_ratio is None else FLAGS.poison_ratio
    study_flags.check_output()
    base, world = study_flags.open_base(config)
    key = stream(jax.random.key(FLAGS.seed), f"finetune {FLAGS.task}")
    rows = world.customer_rows(stream(key, "rows"), FLAGS.task, stage.rows, ratio)
    study_flags.train_and_write(key, base, config, stage.training, rows, f"finetune {FLAGS.task}")


if __name__ == "__main__":
    command.run(main)
