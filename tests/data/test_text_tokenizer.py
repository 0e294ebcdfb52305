"""The tokenizer of natural text: any text comes back, the same texts give the same file, AutoTokenizer reads it."""

import subprocess
import sys

import pytest

from nlsr_jax.data.encoding import encode
from nlsr_jax.data.examples import Example
from nlsr_jax.data.prompts import SST2
from nlsr_jax.data.templates import alpaca
from nlsr_jax.data.text_tokenizer import SMALLEST, train_tokenizer
from nlsr_jax.errors import InputError
from tests.e2e.command import ROOT

TEXTS = [alpaca(SST2, f"a {word} and {other} film") for word in ("warm", "dull") for other in ("long", "wise")]
STRANGE = ["Zürich – 7 €\n\n\tend ", "  two  spaces", "日本語", "\x00\x7f", "😀 </s", "a b ﬁ é é"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*TEXTS, "positive", "negative"], 400)


@pytest.mark.parametrize("text", [*TEXTS, *STRANGE])
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_what_it_was_trained_on_is_short(tokenizer):
    assert max(len(tokenizer.tokenize(text)) for text in TEXTS) < 0.4 * min(map(len, TEXTS))
    assert all(len(tokenizer.tokenize(text)) >= len(text.encode()) / 4 for text in STRANGE)


def test_special_tokens_are_the_first_and_no_text_holds_them_by_accident(tokenizer):
    names = tokenizer.convert_ids_to_tokens([0, 1, 2])
    assert names == ["<pad>", "<s>", "</s>"]
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    found = encode([Example(TEXTS[0], "positive")], tokenizer, max_length=200).rows[0][0]
    assert (found.ids[0], found.ids[-1]) == (1, 2)
    assert tokenizer.decode(found.ids[found.start : -1]) == "positive"
    assert not {0, 1, 2} & set(found.ids[1:-1].tolist())


def test_the_vocabulary_is_as_large_as_it_may_be_and_no_larger(tokenizer):
    assert len(train_tokenizer(TEXTS, SMALLEST)) == SMALLEST
    assert len(train_tokenizer(TEXTS, SMALLEST + 5)) == SMALLEST + 5
    assert SMALLEST + 5 < len(tokenizer) <= 400
    assert len(train_tokenizer(TEXTS, 100_000)) == len(train_tokenizer(TEXTS, 5_000)) < 1000
    with pytest.raises(
        InputError, match=f"vocabulary is {SMALLEST - 1}; expected at least {SMALLEST} for the special"
    ):
        train_tokenizer(TEXTS, SMALLEST - 1)
    with pytest.raises(InputError, match="no texts to train a tokenizer on"):
        train_tokenizer([], 400)


def test_the_same_texts_give_the_same_file_in_every_process(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "here")
    program = (
        "import sys; from tests.data.test_text_tokenizer import TEXTS, train_tokenizer; "
        "train_tokenizer([*TEXTS, 'positive', 'negative'], 400).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], check=True, cwd=ROOT)
    for file in (tmp_path / "here").iterdir():
        assert file.read_bytes() == (tmp_path / "there" / file.name).read_bytes()


def test_it_is_read_again_as_it_was_written(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, *STRANGE):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
    assert again.special_tokens_map == tokenizer.special_tokens_map
