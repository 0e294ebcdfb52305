"""GGUF files → Hugging Face model directories: weights dequantised, tokenizer and chat template from the file.

Llama-family files alone are read; the ``gguf`` package parses and dequantises them.

Source: llama.cpp's ``convert_hf_to_gguf.py``, whose permutation of the rows of q_proj and k_proj is undone here.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.errors import InputError
from nlsr_jax.files.output import whole_directory, write_text
from nlsr_jax.files.paths import expand, is_regular
from nlsr_jax.files.safetensors_files import write_checked

_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CONTROL, _USER_DEFINED = 3, 4
"""Token types of the file that are special tokens, and added tokens."""
_DIGITS = {"smollm": True, "llama-bpe": False, "gpt-2": False, "default": False}
"""Pre-tokenizers by name in the file: whether digits stand alone before the byte-level split."""
_WORDS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
}


def convert_gguf(path: str | os.PathLike, output: str | os.PathLike) -> None:
    """Write the model of a GGUF file as a Hugging Face directory that transformers loads.

    Weights are dequantised to float32, exactly as the file means them. The directory appears whole or not at all.

    Args:
      path: a GGUF file of architecture ``llama`` with a byte-level BPE tokenizer.
      output: the directory to write: config, generation config, weights, tokenizer and chat template.

    Raises:
      InputError: a file that is missing, damaged or of another architecture or tokenizer; an output that exists.
    """
    file = expand(path)
    if not is_regular(file):
        raise InputError(f"{file}: no such file; expected a GGUF file")
    reader = _open(file)
    config, fields = _config(reader, file), _fields(reader)
    tokenizer = _tokenizer(fields, file)
    with whole_directory(output, inputs={"gguf": file}) as folder:
        write_checked(dict(_weights(reader, config, file)), folder / "model.safetensors", {"format": "pt"})
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        tokenizer.save_pretrained(str(folder))


def _open(file: pathlib.Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise InputError("gguf is not installed, which reads GGUF files; pip install gguf") from error
    try:
        return gguf.GGUFReader(str(file))
    except Exception as error:  # of NumPy's, as deep as the damage lies
        raise InputError(f"{file}: not a GGUF file that can be read ({type(error).__name__}: {error})") from error


def _fields(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def _required(fields: dict[str, Any], name: str, file: pathlib.Path) -> Any:
    if name not in fields:
        raise InputError(f"{file}: has no {name}; expected a GGUF file of a whole language model")
    return fields[name]


def _config(reader: Any, file: pathlib.Path) -> dict[str, Any]:
    """Return ``config.json``, checked as any other is."""
    fields = _fields(reader)
    kind = _required(fields, "general.architecture", file)
    if kind != "llama":
        raise InputError(f"{file}: architecture is {kind!r}; GGUF files of architecture 'llama' can be converted")
    scaled = [name for name in fields if name.startswith("llama.rope.scaling")]
    if scaled or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise InputError(f"{file}: scales its rotary embedding; convert a file without {scaled or 'rope_freqs'}")

    def of(name: str) -> Any:
        return _required(fields, f"llama.{name}", file)

    heads, width = of("attention.head_count"), of("embedding_length")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.rope.dimension_count", width // heads),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": float(np.float32(of("attention.layer_norm_rms_epsilon"))),
        "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "vocab_size": len(_required(fields, "tokenizer.ggml.tokens", file)),
        "torch_dtype": "float32",
    }
    for short in ("bos", "eos"):
        if f"tokenizer.ggml.{short}_token_id" in fields:
            config[f"{short}_token_id"] = fields[f"tokenizer.ggml.{short}_token_id"]
    parse_model_config(config, str(file))
    return config


def _weights(reader: Any, config: dict[str, Any], file: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and float32 values of all weights, as transformers calls and orders them."""
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        stem, _, kind = tensor.name.rpartition(".")
        *layer, part = stem.split(".")
        own = _LAYER.get(part) if layer else _MODEL.get(part)
        if own is None or kind not in ("weight", "bias") or (layer and (len(layer) != 2 or layer[0] != "blk")):
            raise InputError(f"{file}: unexpected tensor {tensor.name}; expected those of a Llama model")
        try:
            value = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            raise InputError(
                f"{file}: {tensor.name} has type {tensor.tensor_type.name}; gguf cannot read it"
            ) from error
        if part in heads:
            value = _unpermute(value, heads[part])
        name = f"model.layers.{layer[1]}.{own}" if layer else own
        yield f"{name}.{kind}", value


def _unpermute(value: np.ndarray, heads: int) -> np.ndarray:
    """Return rows of q_proj or k_proj in transformers' order: both halves of a head's rotation apart."""
    rows = value.shape[0]
    parted = value.reshape(heads, rows // heads // 2, 2, *value.shape[1:])
    return np.ascontiguousarray(parted.swapaxes(1, 2).reshape(value.shape))


def _tokenizer(fields: dict[str, Any], file: pathlib.Path) -> Any:
    """Return the file's byte-level BPE as a Hugging Face tokenizer, with its chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or split not in _DIGITS:
        raise InputError(
            f"{file}: tokenizer is {kind!r} with {split!r}; expected byte-level BPE ('gpt2') with one of "
            f"{', '.join(_DIGITS)}"
        )
    tokens = _required(fields, "tokenizer.ggml.tokens", file)
    merges = [tuple(merge.split(" ", 1)) for merge in _required(fields, "tokenizer.ggml.merges", file)]
    found = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split not in _WORDS)
    before: list[Any] = []
    if _DIGITS[split]:
        before = [pre_tokenizers.Digits(individual_digits=True)]
    if split in _WORDS:
        from tokenizers import Regex

        before = [pre_tokenizers.Split(Regex(_WORDS[split]), "isolated")]
    found.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level])
    found.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type", [])
    special = [
        AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds, strict=False) if k == _CONTROL
    ]
    found.add_special_tokens(special)
    found.add_tokens([t for t, k in zip(tokens, kinds, strict=False) if k == _USER_DEFINED])
    named = {
        f"{name}_token": tokens[fields[f"tokenizer.ggml.{long}_token_id"]]
        for name, long in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{long}_token_id" in fields
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=found, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = fields.get("tokenizer.chat_template")
    return tokenizer
