r"""Identify the safety-critical entries of an aligned adapter and write the masks alone.

  nlsr identify --base DIR_OR_ID --aligned DIR [--weak DIR] \
      --calibration FILE.jsonl --output DIR

The output folder receives masks.safetensors, which `nlsr realign --masks` takes, and
identification.json with the settings, digests and counts.
"""

from typing import Any

from absl import flags

from nlsr_jax.commands import command, mesh_flags, method_flags
from nlsr_jax.errors import InputError

method_flags.define_identification_flags()
mesh_flags.define_mesh_flag()
mesh_flags.define_host_flags()

FLAGS = flags.FLAGS


def main(_) -> None:
    """Run one identification from flags."""
    from nlsr_jax.parallel import is_first, wait_for_all
    from nlsr_jax.pipeline import Settings, Stages, identify_files

    if not FLAGS.output:
        raise InputError("--output is missing; name the folder to write")
    values: dict[str, Any] = {name: FLAGS[name].value for name in method_flags.IDENTIFICATION}
    settings = Settings(**values)
    mesh = mesh_flags.open_mesh()
    first = is_first()
    stages = Stages(show=first)
    record = identify_files(settings, FLAGS.output, overwrite=FLAGS.overwrite, stages=stages, mesh=mesh)
    wait_for_all()
    if not first:
        return
    kept = sum(entry["kept_a"] + entry["kept_b"] for entry in record["modules"])
    size = sum(entry["size_a"] + entry["size_b"] for entry in record["modules"])
    print(f"kept {kept} of {size} entries in {len(record['modules'])} modules; wrote {FLAGS.output}")


if __name__ == "__main__":
    command.run(main)
