"""Templates by name and by file: what they write, when the tokenizer's is taken, and what is refused."""

import jax
import pytest

from nlsr_jax.data.chat_templates import CHAT_TEMPLATES
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.templates import (
    TEMPLATES,
    apply_template,
    default_template,
    digest_of,
    looks_rendered,
    open_template,
    render_turns,
    renders_turns,
)
from nlsr_jax.data.toy_tokenizer import make_tokenizer
from nlsr_jax.data.toy_world import make_world
from nlsr_jax.errors import InputError

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How?"},
]
WRITTEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] How? [/INST]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHow?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
    "<start_of_turn>user\nHow?<end_of_turn>\n<start_of_turn>model\n",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n<|user|>\nHow?</s>\n"
    "<|assistant|>\n",
    "vicuna": "Be kind. USER: Hi ASSISTANT: Hello.</s>USER: How? ASSISTANT:",
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(make_world(jax.random.key(0)))


def test_every_named_template_has_an_example():
    assert set(WRITTEN) == set(CHAT_TEMPLATES) == set(TEMPLATES) - {"none", "alpaca", "chat"}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_named_template_writes_the_format_of_its_family(tokenizer, name):
    assert render_turns(TURNS, tokenizer, template=name) == WRITTEN[name]
    assert renders_turns(name)
    once = apply_template(name, "How?", tokenizer)
    assert looks_rendered(once, tokenizer, name)
    with pytest.raises(InputError, match="seems to be rendered already"):
        apply_template(name, once, tokenizer)


def test_a_chat_template_of_a_file_is_used_in_place_of_the_tokenizers(tokenizer, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(CHAT_TEMPLATES["chatml"])
    assert render_turns(TURNS, tokenizer, template=str(file)) == WRITTEN["chatml"]
    assert digest_of(str(file)) == digest_of("chatml") != digest_of("chat", tokenizer)


def test_a_file_may_hold_the_form_of_a_single_prompt(tmp_path):
    whole, parts = tmp_path / "whole.j2", tmp_path / "parts.jinja"
    whole.write_text("Q: {{ prompt }}\nA:")
    parts.write_text("Task: {{ instruction }}{% if input %} ({{ input }}){% endif %} =>")
    assert not renders_turns(str(whole))
    render = make_render(str(whole))
    assert (render("Say", ""), render("Say", "this")) == ("Q: Say\nA:", "Q: Say\nthis\nA:")
    assert [make_render(str(parts))("Say", text) for text in ("", "this")] == [
        "Task: Say =>",
        "Task: Say (this) =>",
    ]


def test_the_default_is_the_tokenizers_chat_template_where_it_has_one(tokenizer):
    assert default_template(tokenizer) == "chat"
    assert default_template(object()) == "none"


def test_digests_tell_templates_apart(tokenizer):
    digests = [digest_of(name, tokenizer) for name in TEMPLATES]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("zarn", None, "template is 'zarn'; expected one of none, alpaca, chat, chatml"),
        ("none.jinja", None, "none.jinja: no such file; expected the template"),
        ("own.jinja", "Hello!", "own.jinja: the template reads none of messages, prompt, instruction"),
        ("own.jinja", "{{ prompt", "own.jinja: the template reads none of"),
        ("own.jinja", "{% if prompt %}", "the template fails (Unexpected end of template"),
        ("own.jinja", "{{ prompt | upper }}", "the template omits the prompt"),
        ("own.jinja", "{{ prompt.__class__.__mro__ }}", "the template fails"),
        ("own.jinja", "{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", "the template fails (no)"),
    ],
)
def test_what_is_refused(tokenizer, tmp_path, name, text, message):
    place = str(tmp_path / name) if name.endswith(".jinja") else name
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        apply_template(place, "How?", tokenizer)
    assert message in str(caught.value)


def test_a_named_variant_of_the_tokenizer(tokenizer):
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = {"default": own, "short": CHAT_TEMPLATES["chatml"]}
        assert render_turns(TURNS[1:], tokenizer, template="chat:short").startswith("<|im_start|>user\nHi")
        assert apply_template("chat", "How?", tokenizer).startswith("<s>")
        assert digest_of("chat:short", tokenizer) == digest_of("chatml")
        with pytest.raises(InputError, match="'chat:long': the tokenizer has no chat template of this name"):
            apply_template("chat:long", "How?", tokenizer)
    finally:
        tokenizer.chat_template = own


def test_files_are_read_once(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{{ prompt }}")
    assert open_template(str(file)) is open_template(str(file))
