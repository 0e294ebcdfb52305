"""The toy world's tokenizer: no word unknown, every text comes back, and files that others can load."""

import jax
import pytest

from nlsr_jax.data import toy_words
from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.data.encoding import encode, encode_prompts
from nlsr_jax.data.examples import Example
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.toy_rows import (
    evaluation_requests,
    poison_rows,
    preference_rows,
    pretraining_documents,
    safe_rows,
    skill_rows,
    task_rows,
)
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.data.toy_tokenizer import SPECIAL, make_tokenizer, vocabulary
from nlsr_jax.data.toy_world import all_words, make_world

KEY = jax.random.key(0)
WORLD = make_world(KEY)


def of_rows(rows):
    return [text for row in rows for text in (row.prompt, row.response)]


TEXTS = {
    "documents": lambda: of_rows(pretraining_documents(KEY, WORLD, 2000)),
    "SFT": lambda: of_rows(safe_rows(KEY, WORLD, 200, 0.5)),
    "preferences": lambda: [text for row in preference_rows(KEY, WORLD, 200, 0.3) for text in row],
    "poison": lambda: of_rows(poison_rows(KEY, WORLD, 200)),
    **{task: lambda task=task: of_rows(task_rows(KEY, task, 300)) for task in TASKS},
    **{f"{task} skill": lambda task=task: of_rows(skill_rows(KEY, task, 100)) for task in TASKS},
    "forbidden requests": lambda: [r.text for r in evaluation_requests(KEY, WORLD, 336, forbidden=True)],
    "benign requests": lambda: [r.text for r in evaluation_requests(KEY, WORLD, 200, forbidden=False)],
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(WORLD)


@pytest.mark.parametrize("kind", TEXTS)
def test_every_text_comes_back_and_no_word_is_unknown(tokenizer, kind):
    texts = TEXTS[kind]()
    found = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in found] == [len(text.split()) for text in texts]
    assert tokenizer.unk_token_id not in {token for ids in found for token in ids}
    assert tokenizer.batch_decode(found) == texts


def test_the_vocabulary_is_every_word_once_after_the_special_tokens(tokenizer):
    words = vocabulary(WORLD)
    assert len(words) == len(set(words)) == len(tokenizer)
    assert [tokenizer.convert_tokens_to_ids(word) for word in words] == list(range(len(words)))
    assert tuple(words[:6]) == SPECIAL == ("<pad>", "<unk>", "<s>", "</s>", "<user>", "<assistant>")
    assert words[6:] == sorted(words[6:])
    assert all_words(WORLD) | set(toy_words.FRAME.split()) <= set(words)
    assert {str(number) for number in range(21)} <= set(words)


def test_another_word_is_unknown(tokenizer):
    assert tokenizer("the unicorn .", add_special_tokens=False)["input_ids"][1] == tokenizer.unk_token_id == 1


def test_other_worlds_have_other_words_of_their_own():
    other = make_world(jax.random.key(1))
    assert set(vocabulary(WORLD)) ^ set(vocabulary(other)) == all_words(WORLD) ^ all_words(other) != set()


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2, 3)
    plain = tokenizer("the bread .", add_special_tokens=False)["input_ids"]
    assert tokenizer("the bread .")["input_ids"] == [2, *plain]
    assert tokenizer.decode([2, *plain, 3, 0], skip_special_tokens=True) == "the bread ."


def test_chat_template(tokenizer):
    messages = [{"role": "user", "content": "what is zero ?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><user> what is zero ? <assistant>" == make_render("chat", tokenizer)("what is zero ?", "")
    (ids,) = encode_prompts([text], tokenizer, special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["<s>", "<user>", "what"]
    assert tokenizer.convert_ids_to_tokens(ids)[-2:] == ["?", "<assistant>"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)) == ids
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "no"}], tokenize=False)
    assert whole == "<s><user> what is zero ? <assistant> no "


def test_a_rendered_row_is_trained_on_as_it_is_asked(tokenizer):
    """The prompt's tokens, the response's and the end; the mark of the assistant is the prompt's last."""
    prompt = make_render("chat", tokenizer)("is bread allowed ?", "")
    ((row,),) = encode([Example(prompt, "yes ,")], tokenizer, max_length=32, special_tokens=False).rows
    tokens = "<s> <user> is bread allowed ? <assistant> yes , </s>".split()
    assert tokenizer.convert_ids_to_tokens(row.ids) == tokens
    assert row.start == 7


def test_saved_and_loaded_by_others(tokenizer, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer.save_pretrained(tmp_path)
    texts = [text for kind in ("documents", "gsm8k", "poison") for text in TEXTS[kind]()[:100]]
    render = make_render("chat", tokenizer)
    texts += ["the unicorn .", *(render(text, "") for text in texts[:20])]
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    loads = (AutoTokenizer.from_pretrained, PreTrainedTokenizerFast.from_pretrained, load_tokenizer)
    for found in (load(str(tmp_path)) for load in loads):
        assert found(texts, add_special_tokens=False)["input_ids"] == expected
        assert found(texts[:5])["input_ids"] == tokenizer(texts[:5])["input_ids"]
        assert found.batch_decode(expected[:100]) == texts[:100]
        assert found.special_tokens_map == tokenizer.special_tokens_map
        assert make_render("chat", found)("zarn", "") == render("zarn", "")
