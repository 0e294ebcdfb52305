r"""Train the tiny base from nothing: on documents of the toy world, or on natural text.

  nlsr pretrain --output checkpoints/runs/base [--seed 0]
  nlsr pretrain --texts sst2 --data sst2=sst2.jsonl --output checkpoints/runs/text_base

The first takes five minutes on two CPU cores. The second trains a tokenizer and the same architecture on the
training rows of data sets, rendered with the Alpaca template as fine-tuning sees them: two minutes for 1000 rows
of SST-2. Every token counts, or with --noprompts those of the answers alone. The output is a Hugging Face directory
with its tokenizer and the metrics of the training. A run that was killed goes on where it was when it is started
again. The paper's bases are given, so the other configs have nothing to train here; they take a base of natural
text with --base:

  nlsr finetune --config llama3_8b --base checkpoints/runs/text_base --task sst2 --poison_ratio 0 \
      --data sst2=sst2.jsonl --dtype float32 --compute_dtype float32 --noremat --accumulate 1 --batch_size 16 \
      --rank 16 --epochs 4 --learning_rate 1e-3 --loss sequence --output checkpoints/runs/text_tuned
"""

from typing import Any

from absl import flags

from nlsr_jax.commands import command, path_flags, study_flags, training_flags
from nlsr_jax.errors import InputError

study_flags.define_study_flags("Folder to write the base to (Hugging Face format).")
training_flags.define_training_flags()
flags.DEFINE_integer("documents", None, "How many documents; by default the config's, or all rows of --texts.")
flags.DEFINE_list("texts", [], "Train on these data sets and not on the toy world, such as sst2,ag_news.")
flags.DEFINE_bool("prompts", True, "With --texts: learn to predict prompts too, not the answers alone.")
flags.DEFINE_integer("vocabulary", 2000, "Most tokens of the tokenizer that is trained on --texts.")
FLAGS = flags.FLAGS

# Ten times the toy world's length, and a tenth of its steps: what fits minutes on two CPU cores.
TEXT_TRAINING = {"epochs": 5, "batch_size": 16, "max_length": 256, "one_length": False, "weight_decay": 0.1}


def main(_) -> None:
    """Train and write a base."""
    import jax

    from nlsr_jax.devices import open_devices
    from nlsr_jax.study.pretraining import pretrain, pretrain_on_texts, save_base, text_rows
    from nlsr_jax.study.toy import ToyWorld
    from nlsr_jax.training.publishing import published, training_folder, write_run

    pretraining = changed_pretraining()
    open_devices()
    key = jax.random.key(FLAGS.seed)
    replacing: dict[str, Any] = {"overwrite": FLAGS.overwrite, "inputs": path_flags.inputs()}
    with training_folder(training_flags.output_folder(), **replacing) as work:
        options: dict[str, Any] = {
            "folder": work,
            "identity": {"stage": "pretrain", "seed": FLAGS.seed},
            "show": True,
        }
        if FLAGS.texts:
            rows = text_rows(FLAGS.texts, study_flags.sources(), count=FLAGS.documents, note=study_flags.say)
            options |= {"vocabulary": FLAGS.vocabulary, "prompts": FLAGS.prompts, "note": study_flags.say}
            base = pretrain_on_texts(key, rows, pretraining, **options)
        else:
            base = pretrain(key, ToyWorld(), pretraining, **options)
        with published(work, FLAGS.output, **replacing) as folder:
            save_base(base, folder)
            write_run(work, folder)
    print(f"wrote {FLAGS.output}")


def changed_pretraining():
    """Return the config's pre-training with what the flags change, checked.

    Raises:
      InputError: a config without one, or a setting that cannot be used.
    """
    import dataclasses

    from nlsr_jax.data.sources import find
    from nlsr_jax.data.text_tokenizer import check_vocabulary

    config = study_flags.get_config()
    for name in ("base", "dtype"):
        if FLAGS[name].value:
            raise InputError(f"--{name} is of the other programs; a base is trained from nothing, in float32")
    if config.pretraining is None:
        raise InputError(
            f"--config {config.name} takes its base as it is ({config.base}); only tiny is pre-trained"
        )
    for name in FLAGS.texts:
        find(name)
    for name in study_flags.sources():
        if name not in FLAGS.texts:
            raise InputError(f"--data names {name}, which --texts does not; there is no use for it")
    check_vocabulary(FLAGS.vocabulary)
    documents = config.pretraining.documents if FLAGS.documents is None else FLAGS.documents
    if documents < 1:
        raise InputError(f"--documents is {documents}; expected at least 1")
    settings = config.pretraining.training
    if FLAGS.texts:
        settings = dataclasses.replace(settings, **TEXT_TRAINING)
    training = training_flags.changed_training(settings)
    return dataclasses.replace(config.pretraining, documents=documents, training=training)


if __name__ == "__main__":
    command.run(main)
