"""Shapes of published models, for what needs no weights: planning and benchmarks.

Source: the ``config.json`` of meta-llama/Meta-Llama-3-8B and -70B, Qwen/Qwen2-7B, mistralai/Mistral-7B-v0.1,
google/gemma-2-9b, google/gemma-3-1b-pt and -4b-pt (its text), microsoft/Phi-3-mini-4k-instruct,
allenai/OLMo-2-1124-7B, Qwen/Qwen3-30B-A3B and mistralai/Mixtral-8x7B-v0.1.
"""

from typing import Any

from nlsr_jax.architecture.config import ModelConfig, parse_model_config
from nlsr_jax.errors import InputError

_LLAMA3_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
KNOWN: dict[str, dict[str, Any]] = {
    "llama3_8b": _LLAMA3_8B,
    "llama3_70b": _LLAMA3_8B
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "qwen2_7b": {
        "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    "mistral_7b": _LLAMA3_8B
    | {
        "model_type": "mistral", "vocab_size": 32000, "rope_theta": 10000.0, "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    "gemma2_9b": {
        "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 3584, "intermediate_size": 14336,
        "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
    },
    "gemma3_1b": {
        "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 32768, "sliding_window": 512,
    },
    "gemma3_4b": {
        "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "phi3_mini": {"model_type": "phi3"},
    "olmo2_7b": {
        "model_type": "olmo2", "vocab_size": 100352, "rope_theta": 500000.0, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
    },
    "qwen3_30b_a3b": {
        "model_type": "qwen3_moe", "num_hidden_layers": 48, "head_dim": 128, "norm_topk_prob": True,
        "rope_theta": 1000000.0, "max_position_embeddings": 40960,
    },
    "mixtral_8x7b": {"model_type": "mixtral"},
}  # fmt: skip
"""The fields of ``config.json`` by the model's name."""


def known_config(name: str) -> ModelConfig:
    """Return the config of a published model by its name.

    Raises:
      InputError: there is none of that name.
    """
    if name not in KNOWN:
        raise InputError(f"model is {name!r}; expected one of {', '.join(KNOWN)}")
    return parse_model_config(dict(KNOWN[name]), name)
