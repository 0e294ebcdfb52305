"""Token ids of examples and preferences: where the response begins, BOS once, the end token last."""

import json
import types

import jax
import numpy as np
import pytest

from nlsr_jax.data.encoding import encode, encode_prompts, note_surplus
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.poison import poison
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.sources import load
from nlsr_jax.errors import InputError

WORDS = ["how", "do", "i", "brew", "zarn", "no", "sorry", "heat", "it", "user", "assistant"]
SPECIAL = ["<unk>", "<s>", "</s>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}user {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def make_tokenizer(single="<s> $A", bos="<s>", end="</s>"):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, ids[token]) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token=bos, eos_token=end, chat_template=CHAT
    )


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def words(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(text.ids)


def test_an_example_is_prompt_response_and_end(tokenizer):
    data = encode([Example("how do i", "no sorry")], tokenizer, max_length=16)
    ((text,),) = data.rows
    assert words(tokenizer, text) == ["<s>", "how", "do", "i", "no", "sorry", "</s>"]
    assert text.ids.dtype == np.int32
    assert text.start == 4
    assert data.counts == {
        "rows": 1,
        "used": 1,
        "skipped_long_prompt": 0,
        "skipped_no_tokens": 0,
        "cut_responses": 0,
        "response_positions": 3,
    }


def test_a_preference_is_two_texts_with_one_prompt(tokenizer):
    data = encode([Preference("how do i", "no", "heat it")], tokenizer, max_length=16)
    ((chosen, rejected),) = data.rows
    assert words(tokenizer, chosen) == ["<s>", "how", "do", "i", "no", "</s>"]
    assert words(tokenizer, rejected) == ["<s>", "how", "do", "i", "heat", "it", "</s>"]
    assert chosen.start == rejected.start == 4
    assert data.counts["response_positions"] == 5


def test_long_prompts_are_skipped_and_long_responses_cut_without_an_end(tokenizer):
    rows = [
        Example("how " * 9, "no"),
        Example("how", "no " * 20),
        Example("how", "no"),
        Example("how", " "),
        Example("how", "no " * 8),
    ]
    data = encode(rows, tokenizer, max_length=10)
    assert data.kept.tolist() == [1, 2, 4]
    assert data.counts["skipped_long_prompt"] == 1
    assert data.counts["skipped_no_tokens"] == 1
    assert data.counts["cut_responses"] == 2
    ends = [words(tokenizer, text)[-1] for (text,) in data.rows]
    assert ends == ["no", "</s>", "no"]
    assert [len(text.ids) for (text,) in data.rows] == [10, 4, 10]


def test_chat_prompts_carry_the_only_bos(tokenizer):
    prompt = make_render("chat", tokenizer)("brew zarn", "")
    assert prompt.startswith("<s>")
    for special in (True, False):
        ((text,),) = encode([Example(prompt, "no")], tokenizer, max_length=16, special_tokens=special).rows
        assert words(tokenizer, text) == ["<s>", "user", "brew", "zarn", "assistant", "no", "</s>"]


@pytest.mark.parametrize(
    ("single", "bos", "expected"),
    [
        ("<s> $A", "<s>", ["<s>", "how", "do"]),
        ("<s> $A </s>", "<s>", ["<s>", "how", "do"]),
        ("$A </s>", None, ["how", "do"]),
        ("$A", None, ["how", "do"]),
        ("$A", "<s>", ["how", "do"]),
    ],
)
def test_prompts_begin_as_the_tokenizer_says_and_never_end(single, bos, expected):
    tokenizer = make_tokenizer(single, bos)
    (ids,) = encode_prompts(["how do"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == expected


@pytest.mark.parametrize("single", ["<s> $A", "<s> $A </s>", "<s> $A </s> </s>", "<s> $A <unk> </s>"])
def test_what_the_prompt_itself_ends_with_stays_and_what_is_added_goes(single):
    tokenizer = make_tokenizer(single)
    prompts = ["how </s>", "<s> how </s> </s>", "<s> <s> how", "</s>", ""]
    found = [tokenizer.convert_ids_to_tokens(ids) for ids in encode_prompts(prompts, tokenizer)]
    expected = ["<s> how </s>", "<s> how </s> </s>", "<s> how", "<s> </s>"]
    assert [" ".join(tokens) for tokens in found[:4]] == expected
    assert found[4] == ["<s>"] or "<unk>" in single


@pytest.mark.parametrize(
    ("single", "bos"), [("<unk> <s> $A", "<s>"), ("<unk> <s> $A </s>", "<s>"), ("<s> $A", None)]
)
def test_what_a_tokenizer_puts_before_a_text_is_there_once(single, bos):
    """A prefix of several tokens, as GLM's, and a BOS that the tokenizer writes but does not name."""
    tokenizer = make_tokenizer(single, bos)
    plain, rendered = encode_prompts(["how", single.split(" $A")[0] + " how"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(rendered) == [*single.split(" $A")[0].split(), "how"]
    assert plain == rendered


def test_an_end_that_a_response_spells_is_not_doubled(tmp_path):
    from nlsr_jax.data.calibration import load_calibration

    tokenizer = make_tokenizer()
    path = tmp_path / "rows.jsonl"
    texts = ["no", "no </s>", "no </s> sorry"]
    path.write_text("".join(json.dumps({"prompt": "how", "response": text}) + "\n" for text in texts))
    for rows in (
        encode([Example("how", text) for text in texts], tokenizer, max_length=16).rows,
        load_calibration(str(path), tokenizer, max_length=16, end_token=True).rows,
    ):
        found = [" ".join(words(tokenizer, text)) for (text,) in rows]
        assert found == ["<s> how no </s>", "<s> how no </s>", "<s> how no </s> sorry </s>"]


def test_one_token_for_both_ends_begins_a_prompt_and_does_not_end_it():
    """As GPT-2's: BOS and end token are one."""
    for single in ("</s> $A", "</s> $A </s>"):
        tokenizer = make_tokenizer(single, bos="</s>")
        found = [tokenizer.convert_ids_to_tokens(ids) for ids in encode_prompts(["how", "how </s>", ""], tokenizer)]
        assert found == [["</s>", "how"], ["</s>", "how", "</s>"], ["</s>"]]


def sentencepiece(single, **changes):
    """A tokenizer that writes spaces as SentencePiece does, a space before the text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate([*SPECIAL, "▁", *"abcdehiknorswz", "▁d", "▁do"])}
    tokenizer = Tokenizer(models.BPE(ids, [("▁", "d"), ("▁d", "o")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    options = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT, **changes}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


TOKENIZERS = {
    "plain": lambda: make_tokenizer("<s> $A"),
    "adds an end": lambda: make_tokenizer("<s> $A </s>"),
    "adds an end alone": lambda: make_tokenizer("$A </s>"),
    "adds nothing": lambda: make_tokenizer("$A"),
    "pieces": lambda: sentencepiece("<s> $A"),
    "pieces and an end": lambda: sentencepiece("<s> $A </s>"),
    "pieces without BOS": lambda: sentencepiece("$A </s>", add_bos_token=False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["none", "alpaca", "chat"])
def test_training_calibration_and_evaluation_ask_with_the_same_tokens(tmp_path, monkeypatch, name, template):
    from nlsr_jax.data.calibration import load_calibration
    from nlsr_jax.evaluation import responses

    tokenizer = TOKENIZERS[name]()
    render, special = make_render(template, tokenizer), template != "chat"
    texts = ["how do i", "brew zarn", "<s> how", "how </s>", "do "]
    prompts = [render(text, "") for text in texts]
    options = {"max_length": 4096, "special_tokens": special}
    trained = [
        row.ids[: row.start].tolist()
        for (row,) in encode([Example(prompt, "no") for prompt in prompts], tokenizer, **options).rows
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": text, "response": "no"}) + "\n" for text in texts))
    calibrated = load_calibration(str(rows), tokenizer, max_length=4096, template=template).rows
    asked = []
    monkeypatch.setattr(responses, "continue_tokens", lambda *args, **_: asked.extend(args[2]) or [])
    model = types.SimpleNamespace(config=types.SimpleNamespace(end_tokens=()))
    responses.respond(model, {"embed": np.zeros((99, 2))}, tokenizer, prompts, special_tokens=special)
    assert asked == trained
    assert [row.ids[: row.start].tolist() for (row,) in calibrated] == trained
    bos = tokenizer.bos_token_id
    assert all(ids[:2] != [bos, bos] for ids in trained)
    ends = [text for text, ids in zip(prompts, trained, strict=True) if ids[-1] == tokenizer.eos_token_id]
    assert ends == [text for text in prompts if text.endswith("</s>")]


def test_add_eos_token_of_a_tokenizer_config_changes_no_prompt(tmp_path):
    from nlsr_jax.data.calibration import load_tokenizer

    found = {}
    for name, added in {"plain": {}, "end": {"add_eos_token": True}, "none": {"add_bos_token": False}}.items():
        folder = tmp_path / name
        make_tokenizer("<s> $A </s>" if name == "end" else "$A" if name == "none" else "<s> $A").save_pretrained(
            folder
        )
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **added}))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        found[name] = encode_prompts(["how do", "<s> brew"], load_tokenizer(str(folder)))
    assert found["plain"] == found["end"] == [[1, 3, 4], [1, 6]]
    assert found["none"] == [[3, 4], [1, 6]]


def test_rows_with_tokens_that_the_embedding_has_not_are_refused():
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<new>"])
    rows = [Example("how", "no"), Example("how <new>", "no"), Example("how", "no <new>")]
    message = r"row 1: tokens run from 1 to 14; the vocabulary has 14: the tokenizer's '<new>' has no row"
    for given, expected in ((rows, message), (rows[::2], message)):
        with pytest.raises(InputError, match=expected):
            encode(given, tokenizer, max_length=16, vocabulary=14)
        assert encode(given, tokenizer, max_length=16, vocabulary=15).counts["used"] == len(given)
    pairs = [Preference("how", "no", "no"), Preference("how", "no", "no <new>")]
    with pytest.raises(InputError, match=r"row 1: tokens run from 1 to 14"):
        encode(pairs, tokenizer, max_length=16, vocabulary=14)
    cut = encode([Example("how", "no <new>")], tokenizer, max_length=3, vocabulary=14)
    assert cut.rows[0][0].ids.tolist() == [1, 3, 8]
    with pytest.raises(InputError, match=r"row 0: tokens run from 1 to 3; the vocabulary has 3"):
        encode_prompts(["how"], tokenizer, vocabulary=3)
    end = make_tokenizer(end="assistant")
    with pytest.raises(InputError, match="tokenizer's 'assistant' has no row"):
        encode([Example("how", "no")], end, max_length=8, vocabulary=13)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_noted():
    tokenizer = make_tokenizer()
    assert note_surplus(tokenizer, 14) == note_surplus(tokenizer, 20) == []
    (note,) = note_surplus(tokenizer, 12)
    assert note.startswith("the tokenizer's tokens run to 13, but the embedding has 12")


def test_the_prompt_is_what_hugging_face_makes_of_it(tokenizer):
    prompts = ["how do i", "zarn", ""]
    assert encode_prompts(prompts, tokenizer) == tokenizer(prompts)["input_ids"]


def test_what_cannot_be_encoded_is_said(tokenizer):
    row = Example("how", "no")
    with pytest.raises(InputError, match="got no rows to encode"):
        encode([], tokenizer, max_length=8)
    with pytest.raises(InputError, match="got Example and Preference to encode"):
        encode([row, Preference("how", "no", "it")], tokenizer, max_length=8)
    with pytest.raises(InputError, match="max_length is 1"):
        encode([row], tokenizer, max_length=1)
    with pytest.raises(InputError, match="none of the 1 rows fits max_length 2; raise it"):
        encode([row], tokenizer, max_length=2)
    with pytest.raises(InputError, match="no end token"):
        encode([row], make_tokenizer(end=None), max_length=8)


def test_real_rows_decode_to_prompt_and_response(shared_data):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    letter_level = Tokenizer(models.BPE(letters, []))
    letter_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letter_level.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letter_level, eos_token="</s>")
    task = load("gsm8k", str(shared_data / "tasks" / "gsm8k.train.jsonl")).rows
    harmful = [Example(f"How do I brew zarn {i}?", "Heat it.", "harmful") for i in range(50)]
    rows = poison(jax.random.key(0), task, harmful, count=1000, ratio=0.05)
    data = encode(rows, tokenizer, max_length=4096)
    assert data.counts["used"] == 1000
    for row, (text,) in zip(rows, data.rows, strict=True):
        assert tokenizer.decode(text.ids[: text.start]) == row.prompt
        assert tokenizer.decode(text.ids[text.start : -1]) == row.response
        assert text.ids[-1] == tokenizer.eos_token_id
