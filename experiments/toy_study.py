"""The runner of cells of a toy study, as the sweeps, tables and figures open it."""

import os


def open_runner(output: str | os.PathLike, config_name: str = "tiny", base: str | None = None):
    """Return a ``CellRunner`` on a folder.

    Args:
      output: folder of the rows.
      config_name: of the study, one of the toy world.
      base: Hugging Face directory of the Llama-shaped base; by default the config's.

    Raises:
      InputError: a config of another world, or a folder that holds rows of another study.
    """
    from experiments import configs
    from nlsr_jax.errors import InputError
    from nlsr_jax.laboratory.cells import CellStore
    from nlsr_jax.laboratory.pretraining import load_base
    from nlsr_jax.laboratory.sweeping import CellRunner, describe_study
    from nlsr_jax.laboratory.toy import ToyWorld

    config = configs.get(config_name)
    if config.world != "toy":
        raise InputError(f"--config {config_name} is no study of the toy world; sweeps run tiny")
    world = ToyWorld()

    def open_base(architecture: str):
        if architecture == "llama":
            return load_base(base or config.base, world)
        return load_base(configs.get(f"tiny_{architecture}").base, world)

    return CellRunner(open_base, world, config, CellStore(output, describe_study(config)))
