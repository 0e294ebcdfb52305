"""A byte-level BPE tokenizer trained on texts, as a Hugging Face tokenizer."""

from collections.abc import Sequence

from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

SPECIAL = ("<pad>", "<s>", "</s>")
SMALLEST = len(SPECIAL) + 256
"""Number of special tokens and single bytes: the smallest vocabulary, without merges."""


def check_vocabulary(size: int) -> None:
    """Raise InputError if a vocabulary cannot hold the special tokens and single bytes."""
    if size < SMALLEST:
        raise InputError(
            f"vocabulary is {size}; expected at least {SMALLEST} for the special tokens and the single bytes"
        )


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Train a tokenizer that can spell any text; the same texts give the same tokenizer.

    Args:
      texts: training texts for the merges.
      vocabulary: maximum number of tokens. There are fewer if the texts have too few pairs that occur twice.

    Returns:
      A ``PreTrainedTokenizerFast`` that begins texts with ``<s>``.

    Raises:
      InputError: if there are no texts, or the vocabulary is too small for the single bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if not texts:
        raise InputError("there are no texts to train a tokenizer on")
    check_vocabulary(vocabulary)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    begin = SPECIAL[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        bos_token=begin,
        eos_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )
