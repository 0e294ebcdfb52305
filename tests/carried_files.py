"""Write small PEFT directories that hold more than factors of the decoder's projections."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from nlsr_jax.formats.peft import save_adapter
from tests.adapter_files import SIZES
from tests.oracles import random_adapter

WRAPPER = "base_model.model."
HEAD, EMBEDDING = f"{WRAPPER}lm_head", f"{WRAPPER}model.embed_tokens"


def array(seed, *shape, dtype=np.float32):
    """Normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def factors(module, rank, sizes, seed=0):
    """``{name: array}`` of the LoRA factors of the module at a path; ``sizes`` is ``(in, out)``."""
    name = f"{WRAPPER}{module}"
    return {
        f"{name}.lora_A.weight": array(seed, rank, sizes[0]),
        f"{name}.lora_B.weight": array(seed + 1, sizes[1], rank),
    }


def add(folder, tensors=None, rename=None, **config):
    """Add tensors to a PEFT directory, rename all of them, and change its config; returns the directory."""
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    found = {**load_file(weights), **(tensors or {})}
    save_file({(rename(name) if rename else name): value for name, value in found.items()}, weights)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **config}))
    return folder


def save_plain(folder, seed=0):
    """Save an adapter of ``SIZES`` and rank 4; returns its directory."""
    save_adapter(random_adapter(seed, layers=2, rank=4, sizes=SIZES), folder)
    return folder


def carried_bytes(folder):
    """``{name: (dtype, shape, bytes)}`` of all that is no factor of a decoder layer."""
    found = load_file(folder / "adapter_model.safetensors")
    names = [name for name in found if ".model.layers." not in name or ".lora_" not in name]
    return {name: (str(found[name].dtype), found[name].shape, found[name].tobytes()) for name in names}
