"""Small random transformers models of every supported family, the torch peers of the tests."""

import copy
import pathlib

import numpy as np
import torch
import transformers

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
GEMMA = {"head_dim": 16, "tie_word_embeddings": True, "sliding_window": 5, "query_pre_attn_scalar": 24}
PATTERN = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
EXPERTS = {"head_dim": 12, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}


def longrope(count: int) -> dict:
    """LongRoPE of Phi-3.5 for that many frequencies."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * i for i in range(count)],
        "long_factor": [1.5 + 1.3 * i for i in range(count)],
    }


VARIANTS = {
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama32_tied": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 16}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR_ROPE}),
    "qwen2": ("Qwen2", {}),
    "qwen25_tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
    "qwen3_biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": 5, "head_dim": 12}),
    "mistral_no_window": ("Mistral", {"sliding_window": None}),
    "gemma": ("Gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma_untied_biases": ("Gemma", {"head_dim": 16, "attention_bias": True}),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}),
    "gemma2_no_caps": ("Gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("Gemma3Text", {**GEMMA, "layer_types": PATTERN, "rope_parameters": GEMMA3_ROPE}),
    "gemma3_scaled": (
        "Gemma3Text",
        {
            **GEMMA,
            "final_logit_softcapping": 9.0,
            "rope_parameters": {**GEMMA3_ROPE, "full_attention": LINEAR_ROPE},
        },
    ),
    "phi3": ("Phi3", {"sliding_window": 6, "num_key_value_heads": 4}),
    "phi4": ("Phi3", {}),
    "phi35_short": ("Phi3", {"original_max_position_embeddings": 40, "rope_parameters": longrope(4)}),
    "phi35_long": ("Phi3", {"original_max_position_embeddings": 8, "rope_parameters": longrope(4)}),
    "phi35_crossing": ("Phi3", {"original_max_position_embeddings": 20, "rope_parameters": longrope(4)}),
    "phi4_mini": (
        "Phi3",
        {
            "tie_word_embeddings": True,
            "hidden_size": 64,
            "original_max_position_embeddings": 40,
            "rope_parameters": {**longrope(6), "partial_rotary_factor": 0.75},
        },
    ),
    "olmo2": ("Olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "olmo2_kv_heads": ("Olmo2", {"num_key_value_heads": 4, "attention_bias": True}),
    "qwen3_moe": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True}),
    "qwen3_moe_unnormalised": ("Qwen3Moe", {**EXPERTS, "use_sliding_window": True, "sliding_window": 5}),
    "mixtral": ("Mixtral", {"num_local_experts": 5}),
    "mixtral_window": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1, "sliding_window": 4}),
}


def make_peer(variant: str, seed: int = 0):
    """A random float32 model, its weights spread wider than a fresh one's so that logits differ clearly."""
    family, changes = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**copy.deepcopy({**COMMON, **changes}))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.3 if weight.ndim > 1 else 0.2
            centre = "norm" in name and not family.startswith("Gemma")
            weight.copy_(torch.randn_like(weight) * scale + centre)
    return model.eval()


def save_peer(variant: str, folder: pathlib.Path, **arguments):
    """Save a peer as a Hugging Face directory; returns the peer."""
    peer = make_peer(variant)
    peer.save_pretrained(folder, **arguments)
    return peer


def tokens(seed: int, batch: int, length: int) -> np.ndarray:
    """Random token ids without the special ones."""
    return np.random.default_rng(seed).integers(3, 97, (batch, length)).astype(np.int32)


def peer_logits(peer, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The peer's float32 logits."""
    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask.astype(np.int64))
        return peer(torch.tensor(ids, dtype=torch.long), attention_mask=mask).logits.numpy()
