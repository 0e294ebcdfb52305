"""Write small judges as Hugging Face directories: machines whose verdicts are known, and a random classifier."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.evaluation.moderation import CATEGORIES
from nlsr_jax.formats.hugging_face import save_params
from nlsr_jax.models.llama import Llama
from nlsr_jax.training.initial import new_params
from tests.evaluation.machines import make_machine, make_tokenizer

CHAT = "<s> check{% for turn in messages %} {{ turn.role }} : {{ turn.content | trim }}{% endfor %}"
TEMPLATE = "does it {behavior} : {generation}"
WORDS = ["check", "user", "assistant", ":", "does", "it", "brew", "zarn", "stir", "sorry", "perhaps"]
VERDICTS = ["safe", "unsafe", "yes", "no"]
GUARD = {"stir": {"unsafe": 3.0}, "sorry": {"safe": 3.0}, "safe": {"</s>": 9.0}, "unsafe": {"</s>": 9.0}}
YES_NO = {"stir": {"yes": 3.0}, "sorry": {"no": 3.0}}
"""What follows the last word of a response; of any other word the verdict cannot be read."""


def save_machine(folder: pathlib.Path, table, chat_template=None) -> pathlib.Path:
    """Save a machine of these words with its tokenizer."""
    tokenizer = make_tokenizer([*WORDS, *VERDICTS], chat_template)
    model, params = make_machine(tokenizer, table)
    save_params(params, model.config, folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_classifier(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Save a random classifier of the 14 topics, with a tokenizer of the same words."""
    tokenizer = make_tokenizer([*WORDS, "USER:", "ASSISTANT:"])
    fields = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = Llama(parse_model_config(fields, "classifier"))
    save_params(new_params(jax.random.key(seed), model), model.config, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    weights["score.weight"] = np.random.default_rng(seed).normal(0, 0.15, (14, 16)).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": dict(enumerate(CATEGORIES))}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    return folder
