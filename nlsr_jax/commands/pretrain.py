r"""Train the tiny base from scratch: on documents of the toy world, or on natural text.

  nlsr pretrain --output checkpoints/runs/base [--seed 0]
  nlsr pretrain --texts sst2 --data sst2=sst2.jsonl --output checkpoints/runs/text_base

The first takes five minutes on two CPU cores. The second trains a tokenizer and the same architecture on the
training rows of data sets, rendered with the Alpaca template as in fine-tuning: two minutes for 1000 rows of SST-2.
The loss covers all tokens, or with --noprompts only those of the answers. The output is a Hugging Face directory
with the tokenizer and the metrics of the training. If a run was killed, run the same command again to resume it.
The paper's bases exist already, so the other configs have nothing to pre-train here; they accept a base of natural
text with --base:

  nlsr finetune --config llama3_8b --base checkpoints/runs/text_base --task sst2 --poison_ratio 0 \
      --data sst2=sst2.jsonl --dtype float32 --compute_dtype float32 --noremat --accumulate 1 --batch_size 16 \
      --rank 16 --epochs 4 --learning_rate 1e-3 --loss sequence --output checkpoints/runs/text_tuned
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import command, path_flags, study_flags, training_flags
from nlsr_jax.errors import InputError

if TYPE_CHECKING:
    from nlsr_jax.study.config import Pretraining
    from nlsr_jax.study.config_files import Study

study_flags.define_study_flags("Folder for the base (Hugging Face format).")
training_flags.define_training_flags()
flags.DEFINE_integer("documents", None, "Number of documents; by default the config's, or all rows of --texts.")
flags.DEFINE_list("texts", [], "Train on these data sets instead of the toy world, such as sst2,ag_news.")
flags.DEFINE_bool("prompts", True, "With --texts: learn to predict prompts as well as answers.")
flags.DEFINE_integer("vocabulary", 2000, "Maximum number of tokens of the tokenizer trained on --texts.")
FLAGS = flags.FLAGS

# Ten times the toy world's length and a tenth of its steps, to finish in minutes on two CPU cores.
TEXT_TRAINING: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 16,
    "max_length": 256,
    "one_length": False,
    "weight_decay": 0.1,
}


def main(_) -> None:
    """Train and write a base."""
    import jax

    from nlsr_jax.devices import open_devices
    from nlsr_jax.study.pretraining import pretrain, pretrain_on_texts, save_base, text_rows
    from nlsr_jax.study.toy import ToyWorld
    from nlsr_jax.training.publishing import published, training_folder, write_run

    study = study_flags.open_study()
    pretraining = changed_pretraining(study)
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
            rows = text_rows(FLAGS.texts, study.given, count=FLAGS.documents, note=study_flags.say)
            options |= {"vocabulary": FLAGS.vocabulary, "prompts": FLAGS.prompts, "note": study_flags.say}
            base = pretrain_on_texts(key, rows, pretraining, **options)
        else:
            base = pretrain(key, ToyWorld(), pretraining, **options)
        with published(work, FLAGS.output, **replacing) as folder:
            save_base(base, folder)
            write_run(work, folder, study.given.files())
    print(f"wrote {FLAGS.output}")


def changed_pretraining(study: "Study") -> "Pretraining":
    """Return the config's pre-training with the changes from the flags, checked.

    Args:
      study: the study of the flags.

    Raises:
      InputError: if the config has no pre-training, or a setting is invalid.
    """
    import dataclasses

    from nlsr_jax.data.text_tokenizer import check_vocabulary

    config = study.config
    for name in ("base", "dtype", "template"):
        if FLAGS[name].value:
            raise InputError(f"--{name} is for the other commands; a base is trained from scratch, in float32")
    if config.pretraining is None:
        raise InputError(f"--config {config.name} uses an existing base ({config.base}); only tiny is pre-trained")
    for name in FLAGS.texts:
        study.given.data_set(name)
    for name in study.given.places:
        if name.partition(".")[0] not in FLAGS.texts:
            raise InputError(f"--data names {name}, but --texts does not; remove it or add it to --texts")
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
