r"""Identify the safety-critical entries of an aligned adapter and write the masks alone.

  nlsr identify --base DIR_OR_ID --aligned DIR [--weak DIR] \
      --calibration FILE.jsonl --output DIR

--config FILE holds settings by the names of flags (.toml, .json); flags that are given come first.

The output folder receives masks.safetensors, which `nlsr realign --masks` takes, and
identification.json with the settings, digests and counts.
"""

from absl import flags

from nlsr_jax.commands import command, mesh_flags, method_flags, path_flags, settings_file
from nlsr_jax.errors import InputError, argument
from nlsr_jax.pipeline.settings import Settings

FLAGS = flags.FLAGS
_SETTINGS = method_flags.names_of(Settings, realigns=False)

settings_file.define_settings_file("identify")
method_flags.define_flags(Settings, _SETTINGS)
path_flags.define_output("output", None, "Folder to write; it appears whole or not at all.")
path_flags.define_overwrite()
mesh_flags.define_mesh_flag()
mesh_flags.define_host_flags()


def main(_) -> None:
    """Run one identification from flags."""
    from nlsr_jax.parallel import is_first, wait_for_all
    from nlsr_jax.pipeline import Stages, identify_files

    settings_file.apply_settings_file("identify")
    if not FLAGS.output:
        raise InputError(f"{argument('output')} is missing; name the folder to write")
    settings = Settings(**method_flags.values_of(Settings, _SETTINGS))
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
