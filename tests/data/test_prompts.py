"""Task prompts: rendering, and reading a rendered prompt back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.prompts import looks_rendered, make_render, parse_alpaca
from nlsr_jax.data.templates import alpaca
from nlsr_jax.errors import InputError

PIECES = st.lists(
    st.sampled_from(["a", "\n", "\n\n", "### Input:\n", "### Instruction:\n", "### Response:", " {i} ", "zarn"]),
    max_size=8,
).map("".join)


@given(PIECES)
def test_a_prompt_without_input_is_read_back(instruction):
    assert parse_alpaca(alpaca(instruction)) == (instruction, "")


@given(PIECES, PIECES.filter(bool))
def test_what_is_read_back_renders_the_same_prompt(instruction, context):
    prompt = alpaca(instruction, context)
    found = parse_alpaca(prompt)
    assert found is not None
    assert alpaca(*found) == prompt
    if "### Input:" not in instruction:
        assert found == (instruction, context)


@pytest.mark.parametrize(
    "text", ["", "Say yes", alpaca("Say yes") + " yes", alpaca("Say yes")[1:], " " + alpaca("a")]
)
def test_other_texts_are_not_prompts(text):
    assert parse_alpaca(text) is None


def test_render_puts_the_context_where_the_template_wants_it():
    assert make_render("alpaca")("Say", "this") == alpaca("Say", "this")
    assert make_render("alpaca")("Say", "") == alpaca("Say")
    assert make_render("none")("Say", "this") == "Say\nthis"
    assert make_render("none")("Say", "") == "Say"
    assert looks_rendered(alpaca("Say"))
    assert not looks_rendered("Say")


def test_a_chat_template_renders_instruction_and_context():
    class Tokenizer:
        chat_template = "any"

        def apply_chat_template(self, turns, tokenize, add_generation_prompt):
            assert add_generation_prompt
            assert not tokenize
            return f"<user> {turns[0]['content']} <assistant>"

    assert make_render("chat", Tokenizer())("Say", "this") == "<user> Say\nthis <assistant>"


def test_templates_are_checked_before_any_row():
    with pytest.raises(InputError, match="template is 'zarn'"):
        make_render("zarn")
    with pytest.raises(InputError, match="no chat template"):
        make_render("chat")
