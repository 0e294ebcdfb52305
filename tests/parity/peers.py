"""Small random transformers models of every supported family, the torch peers of the tests."""

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
}


def make_peer(variant: str, seed: int = 0):
    """A random float32 model, its weights spread wider than a fresh one's so that logits differ clearly."""
    family, changes = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**{**COMMON, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.3 if weight.ndim == 2 else 0.2
            weight.copy_(torch.randn_like(weight) * scale + ("norm" in name))
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
