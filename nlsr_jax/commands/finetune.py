r"""Fine-tune an aligned adapter on a customer's task; a share of the customer's rows is harmful.

  nlsr finetune --config tiny --start checkpoints/runs/dpo --task sst2 --poison_ratio 0.05 \
      --output checkpoints/runs/tuned

The tiny config takes 30 seconds on two CPU cores. The output is a PEFT adapter with the metrics of its
training. If a run was killed, run the same command again to resume it.

A task of yours is a file of rows with labels, or with answers:

  nlsr finetune --config llama3_8b --base MODEL --task tickets --data tickets=tickets.csv --prompt_field text \
      --label_field team --labels billing,shipping --output runs/tuned
"""

from absl import flags

from nlsr_jax.commands import command, data_flags, mesh_flags, study_flags, training_flags

study_flags.define_study_flags("Folder for the PEFT adapter.")
mesh_flags.define_mesh_flag()
training_flags.define_training_flags()
training_flags.define_adapter_flags()
data_flags.define_task_flags("sst2")
flags.DEFINE_float("poison_ratio", None, "Share of harmful rows; by default the config's.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Train and write a fine-tuned adapter."""
    from nlsr_jax.data.poison import share
    from nlsr_jax.evaluation.tasks import TASKS
    from nlsr_jax.study.case import Case, customer_rows, stage_key

    study = training_flags.changed_study()
    config = study.config
    data_flags.check_task_name(study, TASKS)
    stage = training_flags.changed_stage(config.finetuning)
    ratio = config.poison_ratio if FLAGS.poison_ratio is None else FLAGS.poison_ratio
    share(stage.rows, ratio)  # raises if the ratio is invalid
    case = Case(FLAGS.task, ratio, FLAGS.seed)
    key = stage_key(case.seed, case.stage)

    def draw(world):
        return customer_rows(key, world, case, stage.rows)

    training_flags.write_adapter(key, study, stage.training, case.stage, draw)


if __name__ == "__main__":
    command.run(main)
