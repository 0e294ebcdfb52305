"""Language models that are tables: each word decides the next one, with logits that are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.models.llama import Llama

MARKS = ["<unk>", "<s>", "</s>", "\n"]


def make_tokenizer(words, chat_template=None):
    """A tokenizer of words and line ends that starts every text with ``<s>``."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*MARKS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[^ \n]+|\n"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = chat_template
    return fast


def add_end(tokenizer):
    """Have a tokenizer add its end token to every text by itself, as ``add_eos_token`` does."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )


def make_machine(tokenizer, table):
    """A Llama whose logits after a word are ``table[word]``, ``{next word: logit}``, and zero elsewhere.

    Attention and feed-forward add nothing, embeddings are one-hot: the final norm makes the one sqrt(D), which
    the head takes out again.
    """
    vocabulary = tokenizer.get_vocab()
    size = len(vocabulary)
    width = size + size % 2
    fields = {
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "rms_norm_eps": 1e-20,
    }
    model = Llama(parse_model_config(fields, "machine"))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    head = np.zeros((size, width), np.float32)
    for word, following in table.items():
        for then, logit in following.items():
            head[vocabulary[then], vocabulary[word]] = logit / np.sqrt(width)
    ones = {"scale": jnp.ones(width)}
    return model, params | {"embed": jnp.eye(size, width), "lm_head": jnp.asarray(head), "norm": ones}
