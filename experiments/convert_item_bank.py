"""Convert ``tinyBenchmarks.pkl`` to the ``.npz`` file that ``nlsr evaluate --tiny_benchmarks`` reads.

  python -m experiments.convert_item_bank --pickle tinyBenchmarks.pkl --output tinyBenchmarks.npz

The tinyBenchmarks package downloads the pickle. This program accepts arrays, lists and dicts in it and runs nothing
that it holds; see ``experiments.bank_pickle``. It takes a second.
"""

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError

path_flags.define_input("pickle", None, "The file tinyBenchmarks.pkl.")
path_flags.define_output("output", None, "The .npz file to write.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Convert the parts of the pickle that hold the six benchmarks."""
    from experiments.bank_pickle import read_pickle
    from nlsr_jax.evaluation.item_bank import save_banks

    for name in ("pickle", "output"):
        if not FLAGS[name].value:
            raise InputError(f"--{name} is missing")
    banks = read_pickle(FLAGS.pickle)
    save_banks(banks, FLAGS.output)
    for name, bank in banks.items():
        print(f"{name}: {bank.a.shape[1]} items, {len(bank.anchors)} anchors of {', '.join(bank.scenarios)}")


if __name__ == "__main__":
    command.run(main)
