"""Write small PEFT directories for tests."""

import jax
import numpy as np

from nlsr_jax.formats.peft import save_adapter
from tests.oracles import mixed, random_adapter
from tests.tiny_base import save_base, save_rows

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n"
"""What Git leaves in place of a file that Git LFS keeps."""
SIZES = {"q_proj": (32, 32), "v_proj": (32, 16), "down_proj": (48, 32)}


def descend(seed, parent, weight=0.5):
    """An adapter near ``parent``."""
    return mixed(parent, random_adapter(seed, layers=2, rank=4, sizes=SIZES), weight)


def save_family(folder):
    """Save ``aligned``, ``finetuned`` and ``weak`` under ``folder``; returns the aligned adapter."""
    aligned = jax.tree.map(lambda x: np.float32(0.2) * x, random_adapter(0, layers=2, rank=4, sizes=SIZES))
    save_adapter(aligned, folder / "aligned")
    save_adapter(descend(1, aligned, 0.2), folder / "finetuned")
    save_adapter(descend(2, jax.tree.map(lambda x: 0.5 * x, aligned), 0.02), folder / "weak")
    return aligned


def save_inputs(folder):
    """Save all that a realignment reads under ``folder``, and return it: adapters, ``base``, ``rows.jsonl``."""
    save_family(folder)
    save_base(folder / "base")
    save_rows(folder / "rows.jsonl")
    return folder


def flags(folder, *names):
    """``--name folder/name`` for every name."""
    return [part for name in names for part in (f"--{name}", folder / name)]
