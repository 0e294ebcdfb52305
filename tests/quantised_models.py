"""Tiny Llamas that transformers, bitsandbytes or this file has quantised, as Hugging Face directories."""

import json
import pathlib
import shutil
import types

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_base import save_tokenizer

WEIGHTS = "model.safetensors"


def save_wide(folder: pathlib.Path, *, seed: int = 0, dtype: str = "float32", layers: int = 2) -> pathlib.Path:
    """Save a random Llama whose rows are whole blocks of 64, with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def save_bitsandbytes(base: pathlib.Path, folder: pathlib.Path, dtype: str = "float32", **config) -> pathlib.Path:
    """Let transformers and bitsandbytes quantise a model; ``config`` is of ``BitsAndBytesConfig``."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=BitsAndBytesConfig(**config), dtype=getattr(torch, dtype), device_map="cpu"
    )
    model.save_pretrained(folder)
    _copy_tokenizer(base, folder)
    return folder


def save_fp8(base: pathlib.Path, folder: pathlib.Path, block: tuple[int, int] | None, scale: str = "float"):
    """Quantise the projections by transformers' own operation of FP8."""
    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    config = FineGrainedFP8Config(weight_block_size=block or (1, 1), scale_fmt=scale)
    config.weight_block_size = block
    quantise = Fp8Quantize(types.SimpleNamespace(quantization_config=config))
    field = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block and list(block)}
    if scale != "float":
        field["scale_fmt"] = scale
    return save_changed(base, folder, lambda name, value: quantise._quantize_one(name, value), field)


def save_changed(base: pathlib.Path, folder: pathlib.Path, change, field: dict) -> pathlib.Path:
    """Copy a model with the tensors ``change(name, value)`` for every projection, and say so in its config."""
    shutil.copytree(base, folder)
    tensors = {}
    for name, value in load_file(base / WEIGHTS).items():
        tensors |= change(name, value) if "_proj.weight" in name else {name: value}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    edit_config(folder, quantization_config=field)
    return folder


def edit_config(folder: pathlib.Path, **changes) -> None:
    """Change fields of ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pack(numbers: np.ndarray, bits: int, axis: int, order=None) -> np.ndarray:
    """Pack numbers into words of 32 bits along an axis, as GPTQ and AWQ do: an oracle that loops."""
    per = 32 // bits
    moved = np.moveaxis(numbers.astype(np.uint32), axis, 0)
    words = np.zeros((len(moved) // per, *moved.shape[1:]), np.uint32)
    for place in range(len(moved)):
        at = (order or range(per))[place % per]
        words[place // per] |= moved[place] << np.uint32(bits * at)
    return np.ascontiguousarray(np.moveaxis(words, 0, axis)).view(np.int32)


def _copy_tokenizer(base: pathlib.Path, folder: pathlib.Path) -> None:
    for file in base.glob("tokenizer*"):
        shutil.copy(file, folder / file.name)
