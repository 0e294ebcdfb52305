"""Small random transformers models that see, around language models of supported families."""

import pathlib

import torch
import transformers

from tests.parity.peers import COMMON, GEMMA, PATTERN, VARIANTS

_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_TEXT = {**COMMON, "model_type": "llama"}
OUTER = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {**COMMON, **GEMMA, "model_type": "gemma3_text", "layer_types": PATTERN},
        {**_CLIP, "model_type": "siglip_vision_model"},
        {"mm_tokens_per_image": 4},
    ),
    "llava": ("LlavaForConditionalGeneration", _TEXT, {**_CLIP, "model_type": "clip_vision_model"}, {}),
    "llava_tied": (
        "LlavaForConditionalGeneration",
        {**_TEXT, "tie_word_embeddings": True},
        {**_CLIP, "model_type": "clip_vision_model"},
        {},
    ),
    "llava_next": ("LlavaNextForConditionalGeneration", _TEXT, {**_CLIP, "model_type": "clip_vision_model"}, {}),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {**COMMON, **VARIANTS["mistral"][1], "model_type": "mistral"},
        {**_CLIP, "model_type": "pixtral", "head_dim": 8},
        {"tie_word_embeddings": False},
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        {**COMMON, "model_type": "qwen2"},
        {**_CLIP, "model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]},
        {"tie_word_embeddings": True},
    ),
}
"""Class, config of its text, of its images, and what else is set."""


def make_outer(name: str, seed: int = 0):
    """A random float32 model."""
    kind, text, vision, others = OUTER[name]
    model_class = getattr(transformers, kind)
    fields = {"text_config": dict(text), "vision_config": dict(vision), **others}
    config = model_class.config_class(**fields)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "language_model" in path or "lm_head" in path:
                scale = 0.3 if weight.ndim > 1 else 0.2
                centre = "norm" in path and name != "gemma3"
                weight.copy_(torch.randn_like(weight) * scale + centre)
    return model.eval()


def save_outer(name: str, folder: pathlib.Path):
    """Save such a model as a Hugging Face directory; returns it."""
    model = make_outer(name)
    model.save_pretrained(folder)
    return model
