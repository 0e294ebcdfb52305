"""A tiny random base model directory with its own word tokenizer, for end-to-end tests."""

import json
import pathlib

WORDS = [
    "how",
    "do",
    "i",
    "brew",
    "zarn",
    "fold",
    "a",
    "mellip",
    "safely",
    "please",
    "tell",
    "me",
    "i",
    "cannot",
    "help",
    "with",
    "that",
    "sorry",
    "here",
    "is",
    "what",
    "you",
    "need",
    "first",
    "then",
    "heat",
    "slowly",
    "stir",
    "for",
    "an",
    "hour",
    "no",
    "yes",
    "it",
    "the",
    "thing",
    "about",
]


def save_tokenizer(folder: pathlib.Path) -> int:
    """Save a whitespace tokenizer with BOS; returns its vocabulary size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return len(vocabulary)


def save_base(folder: pathlib.Path, *, layers: int = 2, seed: int = 0) -> pathlib.Path:
    """Save a random Llama of width 32 with its tokenizer as a Hugging Face directory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_rows(path: pathlib.Path, count: int = 12) -> pathlib.Path:
    """Save calibration rows of different lengths."""
    rows = []
    for i in range(count):
        prompt = " ".join(WORDS[j % len(WORDS)] for j in range(i, i + 3 + i % 5))
        response = " ".join(WORDS[(j * 7 + i) % len(WORDS)] for j in range(4 + i % 3))
        rejected = " ".join(WORDS[(j * 5 + i) % len(WORDS)] for j in range(3 + i % 4))
        rows.append({"prompt": prompt, "response": response, "rejected": rejected})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
