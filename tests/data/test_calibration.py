"""Encoding and batching of calibration rows."""

import concurrent.futures
import json
import sys

import numpy as np
import pytest

from nlsr_jax.data.calibration import batches, bucket_length, load_calibration, load_tokenizer
from nlsr_jax.data.examples import Encoded
from nlsr_jax.data.templates import alpaca, apply_template
from nlsr_jax.errors import InputError
from tests.tiny_base import save_rows, save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return load_tokenizer(str(folder))


def test_a_row_is_the_prompt_with_bos_and_the_response(tmp_path, tokenizer):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"prompt": "how do i", "response": "i cannot"}) + "\n")
    data = load_calibration(str(path), tokenizer, max_length=16)
    (encoded,) = data.rows[0]
    assert tokenizer.convert_ids_to_tokens(encoded.ids) == ["<s>", "how", "do", "i", "i", "cannot"]
    assert encoded.start == 4
    assert data.counts["response_positions"] == 2


def test_a_prompt_that_holds_bos_gets_no_second_one(tmp_path, tokenizer):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"prompt": "<s> how do i", "response": "i cannot"}) + "\n")
    (encoded,) = load_calibration(str(path), tokenizer, max_length=16).rows[0]
    assert tokenizer.convert_ids_to_tokens(encoded.ids) == ["<s>", "how", "do", "i", "i", "cannot"]


def test_long_prompts_are_counted_and_long_responses_cut(tmp_path, tokenizer):
    path = tmp_path / "r.jsonl"
    rows = [
        {"prompt": "how " * 9, "response": "no"},
        {"prompt": "how", "response": "no " * 20},
        {"prompt": "how", "response": "no"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_calibration(str(path), tokenizer, max_length=10)
    assert data.counts == {
        "rows": 3,
        "used": 2,
        "skipped_long_prompt": 1,
        "cut_responses": 1,
        "response_positions": 9,
    }
    with pytest.raises(InputError, match="none of the 3 rows fits --max_length 2"):
        load_calibration(str(path), tokenizer, max_length=2)


def test_a_row_with_a_token_that_the_embedding_has_not_is_refused(tmp_path, tokenizer):
    rows = [("how", "no", "yes"), ("how", "no yes", "no"), ("how", "no", "no it")]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r, "rejected": x}) + "\n" for p, r, x in rows))
    ids = tokenizer.get_vocab()
    options = {"max_length": 16, "preference": True}
    assert load_calibration(str(path), tokenizer, vocabulary=len(ids), **options).counts["used"] == 3
    for word, row in (("no", 1), ("yes", 1), ("it", 3)):
        with pytest.raises(InputError, match=rf"r\.jsonl: row {row}: tokens run from 1 to {ids[word]}; the voc"):
            load_calibration(str(path), tokenizer, vocabulary=ids[word], **options)


def test_batches_hold_every_response_position_once(tmp_path, tokenizer):
    data = load_calibration(str(save_rows(tmp_path / "r.jsonl")), tokenizer, max_length=64, preference=True)
    found = list(batches(data.rows, 5, 64))
    assert {part[0].shape for part in found} == {(5, 32)}
    assert sum(int(mask.sum()) for _, mask, _, _ in found) == data.counts["response_positions"]
    tokens = np.concatenate([t[m] for t, m, _, _ in found])
    expected = np.concatenate([row[0].ids[row[0].start :] for row in data.rows])
    np.testing.assert_array_equal(tokens, expected)


def test_rows_of_similar_length_share_a_batch_and_its_padding():
    """All batches but the last are full. A bucket has one length: that of its longest row, in steps of eight."""
    lengths = [10, 70, 40, 33, 20, 50, 12, 90, 31]
    rows = [(Encoded(np.full(length, place + 1, np.int32), 5),) for place, length in enumerate(lengths)]
    found = list(batches(rows, 2, 100))
    assert [tokens.shape for tokens, _ in found] == [(2, 32), (2, 32), (2, 56), (2, 96), (2, 96)]
    assert [[int(row[0]) for row in tokens] for tokens, _ in found] == [[1, 5], [7, 9], [3, 4], [6, 2], [8, 0]]
    for tokens, mask in found:
        for row, kept in zip(tokens, mask, strict=True):
            length = lengths[row[0] - 1] if row[0] else 0
            assert (row > 0).sum() == length
            np.testing.assert_array_equal(np.flatnonzero(kept), np.arange(5, max(length, 5)))
    assert next(batches(rows[:1], 1, 10))[0].shape == (1, 10)


def test_buckets_are_powers_of_two_up_to_the_longest():
    assert [bucket_length(n, 100) for n in (1, 32, 33, 64, 65, 100)] == [32, 32, 64, 64, 100, 100]
    assert bucket_length(10, 10) == 10


def test_templates(tokenizer):
    assert alpaca("Say yes").endswith("### Instruction:\nSay yes\n\n### Response:")
    assert "### Input:\nthis\n\n### Response:" in alpaca("Say yes", "this")
    assert apply_template("none", "x") == "x"
    with pytest.raises(InputError, match="no chat template"):
        apply_template("chat", "x", tokenizer)
    with pytest.raises(InputError, match="template is 'zarn'"):
        apply_template("zarn", "x")


def test_chat_template_is_the_tokenizers_own(tmp_path):
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    tokenizer.chat_template = "{% for m in messages %}<s> {{ m['content'] }}{% endfor %} please"
    assert apply_template("chat", "how", tokenizer) == "<s> how please"


def test_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="no usable tokenizer"):
        load_tokenizer(str(tmp_path))


@pytest.fixture
def plain(tmp_path):
    """A model's folder whose tokenizer is read without AutoTokenizer."""
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}<s> {{ m['content'] }}{% endfor %} please"
    )
    return tmp_path


def forbid_auto(monkeypatch):
    import transformers

    def refuse(*_, **__):
        raise ValueError("AutoTokenizer was asked")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)


def test_a_plain_tokenizer_is_autotokenizers_own(plain, monkeypatch):
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(plain)
    forbid_auto(monkeypatch)
    found = load_tokenizer(str(plain))
    assert type(found) is type(expected)
    assert found.get_vocab() == expected.get_vocab()
    assert found.special_tokens_map == expected.special_tokens_map
    for text in ("how do i brew", "<s> please </s> unheard of"):
        assert found(text).data == expected(text).data
        assert found.decode(found(text)["input_ids"]) == expected.decode(expected(text)["input_ids"])
    turns = [{"role": "user", "content": "how"}]
    assert found.apply_chat_template(turns, tokenize=False) == expected.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "mistral"}),
        ("config.json", {"auto_map": {"AutoConfig": "x.Y"}}),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
        ("tokenizer_config.json", None),
    ],
)
def test_any_other_tokenizer_is_left_to_autotokenizer(plain, monkeypatch, file, changes):
    path = plain / file
    path.write_text("[" if changes is None else json.dumps({**json.loads(path.read_text()), **changes}))
    forbid_auto(monkeypatch)
    with pytest.raises(InputError, match="AutoTokenizer was asked"):
        load_tokenizer(str(plain))


def test_a_damaged_plain_tokenizer_is_named(plain):
    (plain / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="no usable tokenizer"):
        load_tokenizer(str(plain))


REPLACES_ITSELF = """
import sys, time, types
time.sleep(0.1)
sys.modules[__name__] = types.SimpleNamespace(
    __spec__=__spec__, PreTrainedTokenizerFast=types.SimpleNamespace(from_pretrained=lambda *_, **__: "read")
)
"""


def test_threads_load_a_tokenizer_while_transformers_is_imported(tmp_path, monkeypatch):
    """The package replaces itself in ``sys.modules``, as the real one does."""
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "transformers.py").write_text(REPLACES_ITSELF)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert [*threads.map(load_tokenizer, [str(tmp_path)] * 4)] == ["read"] * 4
