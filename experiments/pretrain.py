"""Train the tiny base from nothing on documents of the toy world.

  python -m experiments.pretrain --output checkpoints/runs/base [--seed 0]

Three minutes on two CPU cores; the loss ends near 0.60 nats a token. The output is a Hugging Face directory
with its tokenizer and the metrics of the training. A run that was killed goes on where it was when it is
started again. The paper's bases are given, so the other configs have nothing to train here.
"""

from absl import flags

from experiments import command, study_flags

study_flags.define_study_flags("Folder to write the base to (Hugging Face format).")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Train and write a base."""
    import dataclasses
    import shutil

    import jax

    from nlsr_jax.errors import InputError
    from nlsr_jax.formats.hugging_face import save_params
    from nlsr_jax.formats.output import check_free, whole_directory
    from nlsr_jax.laboratory.pretraining import pretrain
    from nlsr_jax.laboratory.toy import ToyWorld

    config = study_flags.get_config()
    if config.pretraining is None:
        raise InputError(
            f"--config {config.name} takes its base as it is ({config.base}); only tiny is pre-trained"
        )
    output = study_flags.check_output()
    check_free(output, FLAGS.overwrite)
    work = study_flags.run_folder()
    identity = {"stage": "pretrain", "seed": FLAGS.seed, "settings": dataclasses.asdict(config.pretraining)}
    base = pretrain(
        jax.random.key(FLAGS.seed), ToyWorld(), config.pretraining, folder=work, identity=identity, show=True
    )
    with whole_directory(output, overwrite=FLAGS.overwrite) as folder:
        save_params(base.params, base.model.config, folder / "model")
        base.tokenizer.save_pretrained(folder / "model")
        for file in (folder / "model").iterdir():
            file.rename(folder / file.name)
        (folder / "model").rmdir()
        shutil.copyfile(work / "metrics.jsonl", folder / "metrics.jsonl")
    shutil.rmtree(work)
    print(f"wrote {output}")


if __name__ == "__main__":
    command.run(main)
