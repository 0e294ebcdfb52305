"""Train the tiny base from nothing on documents of the toy world.

  python -m experiments.pretrain --output checkpoints/runs/base [--seed 0]

Three minutes on two CPU cores; the loss ends near 0.60 nats a token. The output is a Hugging Face directory
with its tokenizer and the metrics of the training. A run that was killed goes on where it was when it is
started again. The paper's bases are given, so the other configs have nothing to train here.
"""

from absl import flags

from experiments import command, study_flags, training_flags

study_flags.define_study_flags("Folder to write the base to (Hugging Face format).")
training_flags.define_training_flags()
flags.DEFINE_integer("documents", None, "How many documents of the toy world; by default the config's.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Train and write a base."""
    import jax

    from nlsr_jax.laboratory.pretraining import pretrain, save_base
    from nlsr_jax.laboratory.toy import ToyWorld
    from nlsr_jax.training.publishing import published, training_folder

    pretraining = changed_pretraining()
    with training_folder(training_flags.output_folder(), overwrite=FLAGS.overwrite) as work:
        identity = {"stage": "pretrain", "seed": FLAGS.seed}
        base = pretrain(
            jax.random.key(FLAGS.seed), ToyWorld(), pretraining, folder=work, identity=identity, show=True
        )
        with published(work, FLAGS.output, overwrite=FLAGS.overwrite) as folder:
            save_base(base, folder)
            training_flags.copy_run(work, folder)
    print(f"wrote {FLAGS.output}")


def changed_pretraining():
    """Return the config's pre-training with what the flags change, checked.

    Raises:
      InputError: a config without one, or a setting that cannot be used.
    """
    import dataclasses

    from nlsr_jax.errors import InputError

    config = study_flags.get_config()
    for name in ("base", "data", "dtype"):
        if FLAGS[name].value:
            raise InputError(f"--{name} is of the other programs; a base is trained from nothing, in float32")
    if config.pretraining is None:
        raise InputError(
            f"--config {config.name} takes its base as it is ({config.base}); only tiny is pre-trained"
        )
    documents = config.pretraining.documents if FLAGS.documents is None else FLAGS.documents
    if documents < 1:
        raise InputError(f"--documents is {documents}; expected at least 1")
    training = training_flags.changed_training(config.pretraining.training)
    return dataclasses.replace(config.pretraining, documents=documents, training=training)


if __name__ == "__main__":
    command.run(main)
