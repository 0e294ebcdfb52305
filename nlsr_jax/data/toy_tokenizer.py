"""A word-level tokenizer for the toy world, as a Hugging Face tokenizer with a chat template."""

from nlsr_jax.data import toy_words as words
from nlsr_jax.data.toy_world import World, all_words
from nlsr_jax.types import Tokenizer

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def vocabulary(world: World) -> list[str]:
    """List all tokens: the special tokens, then every word of the world in a fixed order."""
    found = all_words(world) | set(words.FRAME.split()) | {str(n) for n in range(words.LARGEST + 1)}
    found |= {"positive", "negative", *words.TOPICS, *words.TOPIC_SYNONYMS.values()}
    return [*SPECIAL, *sorted(found)]


def make_tokenizer(world: World) -> Tokenizer:
    """Return a ``PreTrainedTokenizerFast`` for the world's words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary(world))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
