"""A tiny random model of the family that a public adapter config names: two layers, width 32."""

import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from tests.parity.peers import COMMON, EXPERTS, GEMMA
from tests.tiny_base import save_tokenizer

SMALL = {**COMMON, "num_hidden_layers": 2}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_IMAGE = {**_VISION, "image_size": 16, "patch_size": 8}
_T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_SPEECH = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in
           (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
_BERT = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_LINEAR = {f"linear_{part}": n for part, n in
           (("num_key_heads", 2), ("num_value_heads", 2), ("key_head_dim", 8), ("value_head_dim", 8))}  # fmt: skip
_HYBRID = {**SMALL, **_LINEAR, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 97}

FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", SMALL),
    "mistral": ("MistralConfig", "MistralForCausalLM", SMALL),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SMALL),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**SMALL, "head_dim": 12}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**SMALL, **EXPERTS}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**SMALL, "num_local_experts": 3}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**SMALL, "head_dim": 16}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**SMALL, **GEMMA}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**SMALL, **GEMMA}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**SMALL, "num_key_value_heads": 4}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", SMALL),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SMALL),
    "opt": ("OPTConfig", "OPTForCausalLM", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi": ("PhiConfig", "PhiForCausalLM", SMALL),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "falcon": ("FalconConfig", "FalconForCausalLM", SMALL),
    "bloom": ("BloomConfig", "BloomForCausalLM", {**SMALL, "n_layer": 2}),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {**SMALL, "num_local_experts": 4, "head_dim": 8}),
    "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", _HYBRID),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": SMALL,
            "vision_config": {
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32
            },
        },
    ),
    "smolvlm": (
        "SmolVLMConfig",
        "SmolVLMForConditionalGeneration",
        {"text_config": {**SMALL, "model_type": "llama"}, "vision_config": _IMAGE},
    ),
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5),
    "whisper": ("WhisperConfig", "WhisperForConditionalGeneration", {**_SPEECH, "vocab_size": 97, "d_model": 32,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}),
    "bert": ("BertConfig", "BertModel", {**_BERT, "intermediate_size": 48}),
}  # fmt: skip
"""Config class, model class and fields."""

NAMES = (
    (r"whisper", "whisper"),
    (r"t5|bart|mt0", "t5"),
    (r"bert|minilm|bge|e5-|sentence|flux|diffusion|sdxl|convbert|test_regression", "bert"),
    (r"qwen2[._]?5[-_]?vl|qwen2[-_]vl|qwen3[-_]?vl", "qwen2_5_vl"),
    (r"smolvlm|idefics", "smolvlm"),
    (r"qwen3[._]5|qwen3[-_]?next", "qwen3_5"),
    (r"qwen3.*a\d+b|qwen3_?moe", "qwen3_moe"),
    (r"qwen3|qvikhr-3", "qwen3"),
    (r"qwen", "qwen2"),
    (r"gpt-?oss", "gpt_oss"),
    (r"mixtral|8x\d+b", "mixtral"),
    (r"mistral|zephyr|ministral|jaskier", "mistral"),
    (r"gemma-?3", "gemma3"),
    (r"gemma-?2(?!b)", "gemma2"),
    (r"gemma", "gemma"),
    (r"phi-?(?:3|4)", "phi3"),
    (r"phi", "phi"),
    (r"olmo", "olmo2"),
    (r"pythia|neox|open-calm|dolly|stablelm-base", "gpt_neox"),
    (r"\bopt\b|opt-?\d|OPTFor", "opt"),
    (r"falcon", "falcon"),
    (r"bloom", "bloom"),
    (r"gpt-?2|gpt-?j", "gpt2"),
)
"""Which family a name is of; the first that matches, and a Llama if none does."""


def family_of(config: Mapping[str, Any]) -> str:
    """Name the family of ``FAMILIES`` that an adapter config names, by its base, its class, or its targets."""
    mapping = config.get("auto_mapping") or {}
    named = f"{config.get('base_model_name_or_path') or ''} {mapping.get('base_model_class', '')} "
    named += str(mapping.get("parent_library", ""))
    for pattern, family in NAMES:
        if re.search(pattern, named, re.IGNORECASE):
            return family
    targets = config.get("target_modules") or []
    by_target = {"query_key_value": "gpt_neox", "c_attn": "gpt2", "qkv_proj": "phi3", "fc2": "opt", "query": "bert"}
    return next((family for name, family in by_target.items() if name in targets), "llama")


@functools.cache
def make_base(family: str) -> Callable[[], Any]:
    """Return a function that builds the model, on no device, so that adapters of it have shapes and no weights."""
    config_class, model_class, fields = FAMILIES[family]

    def build(device: str = "meta"):
        config = getattr(transformers, config_class)(**fields)
        with torch.device(device):
            return getattr(transformers, model_class)(config)

    return build


def save_base(family: str, folder: pathlib.Path) -> pathlib.Path:
    """Save a model with random weights and a tokenizer, if it is not there."""
    if not folder.exists():
        torch.manual_seed(0)
        make_base(family)("cpu").save_pretrained(folder)
        save_tokenizer(folder)
    return folder
