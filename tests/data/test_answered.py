"""Prompts and answers from rows of every shape, and rows that would lose something on the way."""

import copy
import json

import pytest

from nlsr_jax.data.answered import read_answered
from nlsr_jax.data.calibration import load_calibration, load_tokenizer
from nlsr_jax.data.row_shapes import Fields
from nlsr_jax.data.templates import alpaca
from nlsr_jax.errors import InputError
from tests.tiny_base import save_tokenizer

CHAT = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}<assistant>"
NO_SYSTEM = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }} {% endfor %}"


def turn(role, text):
    return {"role": role, "content": text}


def said(who, text):
    return {"from": who, "value": text}


SYSTEM, USER, GOOD, BAD = turn("system", "s"), turn("user", "q"), turn("assistant", "a"), turn("assistant", "b")
HUMAN, GPT = said("human", "q"), said("gpt", "a")
PAIRS = "\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"
LONGER = [SYSTEM, USER, turn("assistant", "x"), turn("user", "q2"), GOOD]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    found = load_tokenizer(str(folder))
    found.chat_template = CHAT
    return found


def save(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(folder, *rows, **options):
    return [tuple(row) for row in read_answered(save(folder, rows), **options).rows]


SHAPES = {
    "prompt and response": {"prompt": "q", "response": "a", "id": 3},
    "prompt and completion": {"prompt": "q", "completion": "a"},
    "prompt and completion as turns": {"prompt": [USER], "completion": [GOOD]},
    "messages": {"messages": [USER, GOOD]},
    "messages of parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, GOOD]},
    "messages written as JSON": {"messages": json.dumps([USER, GOOD])},
    "messages with a blank system turn": {"messages": [turn("system", ""), USER, GOOD]},
    "prompt written as JSON": {"prompt": json.dumps([USER]), "completion": "a"},
    "messages beside their prompt": {"prompt": "q", "prompt_id": "1", "messages": [USER, GOOD]},
    "from and value": {"conversations": [HUMAN, GPT]},
    "conversation of pairs": {"conversation": [{"human": "q", "assistant": "a"}]},
    "dialog": {"dialog": [turn("human", "q"), turn("bot", "a")]},
    "instruction": {"instruction": "q", "input": "", "output": "a"},
    "instruction and response": {"instruction": "q", "context": "", "response": "a", "category": "open_qa"},
    "question and answer": {"question": "q", "answer": "a"},
    "question and response": {"question": "q", "response": "a"},
    "query and response": {"query": "q", "response": "a"},
    "input and output": {"input": "q", "output": "a"},
    "prompt as turns": {"prompt": [USER], "response": "a"},
    "preferences": {"prompt": "q", "chosen": "a"},
    "BeaverTails": {"prompt": "q", "response": "a", "category": {}, "is_safe": True},
    "KTO": {"prompt": "q", "completion": "a", "label": True},
    "transcript": {"chosen": PAIRS[0]},
    "marks that say nothing bad": {"prompt": "q", "response": "a", "safe": True, "harmful": 0, "toxic": 0.3},
}
PREFERENCES = {
    "prompt and response": {"prompt": "q", "response": "a", "rejected": "b"},
    "text": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "turns": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "prompt repeated": {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]},
    "prompt inside": {"chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 9.0},
    "transcripts": {"chosen": PAIRS[0], "rejected": PAIRS[1]},
    "conversation and one turn": {"conversations": [HUMAN], "chosen": GPT, "rejected": said("gpt", "b")},
    "question": {"question": "q", "chosen": "a", "rejected": "b"},
    "preferred output": {
        "input": {"messages": [USER], "tools": []},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "two answers": {
        "prompt": "q",
        "response_0": "b",
        "response_1": "a",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
    },
}


@pytest.mark.parametrize("row", SHAPES.values(), ids=SHAPES)
def test_shapes(tmp_path, row):
    assert read(tmp_path, row, row) == [("q", "a", "")] * 2


@pytest.mark.parametrize("row", PREFERENCES.values(), ids=PREFERENCES)
def test_preferences(tmp_path, row):
    assert read(tmp_path, row, preference=True) == [("q", "a", "b")]
    assert read(tmp_path, row) == [("q", "a", "")]


def test_parquet_lists_of_objects(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [SHAPES["messages"], SHAPES["messages"]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert read_answered(str(tmp_path / "r.parquet")).rows == [("q", "a", "")] * 2


def test_csv_cells(tmp_path):
    path = tmp_path / "r.csv"
    cell = json.dumps([USER, GOOD]).replace('"', '""')
    path.write_text(f'messages,is_safe\n"{cell}",True\n"{cell}",False\n')
    found = read_answered(str(path))
    assert found[:2] == ([("q", "a", "")], {"skipped_unsafe": 1})
    path.write_text("""messages\n"[{'role': 'user', 'content': 'q'}]"\n""")
    with pytest.raises(InputError, match=r"r.csv: line 2: 'messages' looks like turns but is not JSON"):
        read_answered(str(path))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"messages": [USER, GOOD]}, "<user> q <assistant>"),
        ({"messages": [SYSTEM, USER, GOOD]}, "<system> s <user> q <assistant>"),
        ({"messages": [turn("developer", "s"), USER, GOOD]}, "<system> s <user> q <assistant>"),
        ({"messages": LONGER}, "<system> s <user> q <assistant> x <user> q2 <assistant>"),
        ({"prompt": LONGER[:4], "completion": [GOOD]}, "<system> s <user> q <assistant> x <user> q2 <assistant>"),
        ({"system": "s", "question": "q", "chosen": "a"}, "<system> s <user> q <assistant>"),
        ({"system": "s", "conversations": [HUMAN, GPT]}, "<system> s <user> q <assistant>"),
        (
            {"instruction": "q", "input": "c", "output": "a", "system": "", "history": [["h", "i"]]},
            "<user> h <assistant> i <user> q\nc <assistant>",
        ),
        ({"instruction": "q", "context": "c", "response": "a"}, "<user> q\nc <assistant>"),
    ],
)
def test_all_turns_are_in_the_prompt(tmp_path, tokenizer, row, prompt):
    assert read(tmp_path, row, tokenizer=tokenizer, template="chat") == [(prompt, "a", "")]


@pytest.mark.parametrize(
    ("chat", "text"),
    [
        (CHAT, "<user> q <assistant>"),
        ("{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", "<s>[INST] q [/INST]"),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
            " <|im_start|>user\nq",
        ),
        (
            "A chat. {% for m in messages %}USER: {{ m.content }} {% endfor %}ASSISTANT:",
            "A chat. USER: q ASSISTANT:",
        ),
    ],
)
def test_prompts_that_the_chat_template_has_rendered_are_not_rendered_again(tmp_path, tokenizer, chat, text):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = chat
    options = {"tokenizer": tokenizer, "template": "chat"}
    for row in ({"prompt": text, "completion": "a"}, {"messages": [turn("user", text), GOOD]}):
        with pytest.raises(
            InputError, match=r"line 1: template 'chat': a prompt begins with .* like the chat template"
        ):
            read(tmp_path, row, **options)
    for said in ("<div> is what?", "user of what?", "[1] is what?", "A chat about what?", "<s> what?"):
        assert said in read(tmp_path, {"prompt": said, "completion": "a"}, **options)[0][0]


def test_alpaca_rows_by_the_alpaca_template(tmp_path):
    rows = [{"instruction": "q", "input": "c", "output": "a"}, {"instruction": alpaca("q"), "output": "a"}]
    found = read(tmp_path, *rows, template="alpaca")
    assert found == [(alpaca("q", "c"), "a", ""), (alpaca("q"), "a", "")]


PLAIN = {"prompt": "q", "response": "a"}
LOST = {
    "a system turn": ({"messages": [SYSTEM, USER, GOOD]}, r"has 2 turns .*\(system, user\).*--template chat"),
    "earlier turns": ({"messages": LONGER}, "line 1: has 4 turns before the answer"),
    "a system column": ({**PLAIN, "system": "s"}, "has 2 turns before the answer"),
    "no answer": ({"messages": [USER]}, "'messages' ends with a user turn"),
    "no question": ({"messages": [GOOD]}, "an answer without a prompt"),
    "two answers": ({"messages": [USER, GOOD, BAD]}, "an answer after the assistant turn"),
    "no turns": ({"messages": []}, "'messages' is empty"),
    "another history": ({"messages": [USER, GOOD], "history": [["h", "i"]]}, "'history' is not supported beside"),
    "half a frame": ({"instruction": alpaca("q")[:-9], "output": "a"}, "begins like an Alpaca prompt"),
    "a tool": ({"messages": [USER, turn("tool", "x"), GOOD]}, "a turn 2 whose role is not system"),
    "a call": ({"messages": [USER, {**GOOD, "tool_calls": [1]}]}, "a turn 2 with tool_calls, which is not read"),
    "thoughts": ({"messages": [USER, {**GOOD, "reasoning_content": "x"}]}, "with reasoning_content"),
    "no weight": ({"messages": [USER, {**GOOD, "weight": 0}]}, "a turn 2 of weight 0"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image"}]}, GOOD]},
        "a turn 1 that is not text",
    ),
    "pictures beside": ({**PLAIN, "images": ["x.png"]}, "'images' is not empty, but only text is read"),
    "tools beside": ({"messages": [USER, GOOD], "tools": '[{"name": "f"}]'}, "'tools' is not empty"),
    "texts in a row": ({"dialog": ["q", "a"]}, "a turn 1 that is not an object"),
    "a context": ({**PLAIN, "input": "x"}, "'input' has content beside 'prompt'"),
    "a table as context": ({"question": "q", "context": {"x": 1}, "answer": "a"}, "'context' is not text"),
    "capitals": (
        {"Prompt": "q", "Response": "a"},
        r"no prompt with an answer; .*--prompt_field and .* \(found the columns Prompt, Response\)",
    ),
    "single text": ({"text": "q a"}, r"no prompt with an answer.*\(found the column text\)"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "'chosen' contains no prompt; name its column"),
    "another prompt": ({"prompt": "z", "chosen": [USER, GOOD]}, "'chosen' begins with a different conversation"),
    "two prompts": ({"prompt": "q", "question": "z", "answer": "a"}, "'prompt' and 'question' may each hold"),
    "two answers beside": ({"question": "q", "answer": "a", "output": "b"}, "may each hold an answer; select one"),
    "answer and chosen": ({"question": "q", "answer": "a", "chosen": "b"}, "'chosen' and 'answer' may each"),
    "another conversation": ({"prompt": "z", "messages": [USER, GOOD]}, "'messages' and 'prompt' may each hold"),
    "answer and conversation": ({"answer": "a", "messages": [USER, GOOD]}, "'messages' and 'answer' may each hold"),
    "an unknown mark": ({**PLAIN, "is_safe": "maybe"}, "'is_safe' is not true or false"),
    "a mark of prompt or answer": ({**PLAIN, "harmful": True}, "'harmful' may mark the answer"),
    "a good mark denied": ({**PLAIN, "safe": "False"}, "'safe' may mark the answer"),
    "a number as a bad mark": ({**PLAIN, "toxic": 1}, "'toxic' may mark the answer"),
    "choices beside": ({"question": "q", "options": ["x", "y"], "answer": "A"}, "'options' is not read, but"),
    "a mark left open": ({**PLAIN, "is_safe": None}, "'is_safe' is missing"),
    "a number as mark": ({"prompt": "q", "completion": "a", "label": 0}, "'label' is a number"),
    "a number as text": ({"prompt": "q", "completion": "a", "label": "1"}, "'label' is a number"),
    "a blank answer": ({"prompt": "q", "response": " "}, "'response' is blank"),
    "a number as answer": ({"prompt": "q", "response": 3}, r"'response' is neither text .* \(found int\)"),
    "no object": (3, "line 1: is int; expected an object"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "message"), LOST.values(), ids=LOST)
def test_nothing_is_lost_in_silence(tmp_path, row, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, row, template="alpaca" if "instruction" in str(row) else "none")
    assert "rows.jsonl: line 1" in str(caught.value)


def test_rejected_answers_of_another_conversation(tmp_path):
    row = {"chosen": [USER, GOOD], "rejected": [turn("user", "z"), BAD]}
    with pytest.raises(InputError, match="'rejected' begins with a different conversation from the chosen answer"):
        read(tmp_path, row, preference=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [PLAIN, {"prompt": "q", "completion": "a"}],
            "line 2: has .*, answers from 'completion'; the rows",
        ),
        ([{"messages": [USER, GOOD]}, PLAIN], "line 2: .*; the rows before have conversations from 'messages'"),
        ([PLAIN, PLAIN, {"text": "x"}], r"line 3: no prompt .*; the rows before have prompts from 'prompt'"),
        (
            [{"prompt": "q", "chosen": [GOOD]}, {"prompt": "q", "chosen": "a"}],
            "line 2: has prompt and answer as text and text, but the rows before have them as text and turns",
        ),
    ],
)
def test_one_file_has_one_shape(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, *rows)


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"Prompt": "q", "Response": "a"}, Fields("Prompt", "Response")),
        ({"question": "q", "prompt": "z", "answer": "a"}, Fields("question")),
        ({"question": "q", "answer": "z", "output": "a"}, Fields(response="output")),
        ({"talk": [USER, GOOD], "prompt": "z", "response": "y"}, Fields("talk")),
        ({"good": "\n\nHuman: q\n\nAssistant: a"}, Fields(response="good")),
        ({**PLAIN, "context": "unread"}, Fields("prompt")),
        ({"a b": [USER], "answer": "a"}, Fields("a b")),
    ],
)
def test_named_columns(tmp_path, row, fields):
    assert read(tmp_path, row, fields=fields) == [("q", "a", "")]


def test_named_columns_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"'x' is missing but --response_field names it \(found"):
        read(tmp_path, PLAIN, fields=Fields(response="x"))
    with pytest.raises(InputError, match="has no rejected answer; name its column with --rejected_field"):
        read(tmp_path, PLAIN, preference=True)
    assert read(tmp_path, {**PLAIN, "bad": "b"}, preference=True, fields=Fields(rejected="bad")) == [
        ("q", "a", "b")
    ]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"is_safe": True}, {"is_safe": False}),
        ({"label": True}, {"label": False}),
        ({"kto_tag": True}, {"kto_tag": False}),
        ({"is_harmful": False}, {"is_harmful": True}),
        ({"response_harm_label": "unharmful"}, {"response_harm_label": "harmful"}),
        ({"response_label": "safe"}, {"response_label": "Unsafe"}),
        ({"flag": "safe"}, {"flag": "unsafe"}),
        ({"label": "open_qa"}, {"label": "harmful"}),
        ({"label": "True"}, {"label": "false"}),
    ],
)
def test_unsafe_answers_are_left_out_and_counted(tmp_path, good, bad):
    notes = []
    path = save(tmp_path, [{**PLAIN, **bad}, {**PLAIN, **good}, {**PLAIN, **bad}])
    found = read_answered(path, note=notes.append)
    assert found[:2] == ([("q", "a", "")], {"skipped_unsafe": 2})
    assert notes == [f"{path}: skipped 2 of 3 rows, which have an answer marked as unsafe"]
    with pytest.raises(InputError, match="none of the 1 rows has a usable safe answer"):
        read(tmp_path, {**PLAIN, **bad})


def test_two_answers_of_a_kind(tmp_path):
    row = PREFERENCES["two answers"]
    rows = [row, {**row, "is_response_0_safe": True}, {**row, "is_response_1_safe": False}]
    assert read_answered(save(tmp_path, rows)).skipped == {"skipped_unsafe": 1}
    assert read(tmp_path, *rows) == [("q", "a", ""), ("q", "b", "")]
    found = read_answered(save(tmp_path, rows), preference=True)
    assert found[:2] == ([("q", "a", "b")], {"skipped_unpaired": 1, "skipped_unsafe": 1})


def test_what_is_read_is_said(tmp_path):
    notes = []
    read(tmp_path, SHAPES["question and answer"], note=notes.append)
    read(tmp_path, PLAIN, note=notes.append)
    assert notes == [f"{tmp_path}/rows.jsonl: prompts from 'question', answers from 'answer'"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response": "Assistant: a"},
        {"prompt": "Human: q\n\nAssistant:", "response": "Human: x\n\nAssistant: a"},
        {"prompt": "q", "response": '[{"role": "admin"}]'},
        {"prompt": '{"value": 3', "response": '{"content": "x"}'},
        {**PLAIN, "messages": [turn("user", "z"), BAD], "chosen": "z", "label": "any"},
    ],
)
def test_prompts_and_responses_stay_as_they_are(tmp_path, row):
    assert read(tmp_path, row) == [(row["prompt"], row["response"], "")]


def test_a_chat_template_that_hides_a_turn_is_refused(tmp_path, tokenizer):
    class Hiding:
        chat_template = NO_SYSTEM

        def apply_chat_template(self, turns, **options):
            return tokenizer.apply_chat_template(turns, chat_template=NO_SYSTEM, **options)

    with pytest.raises(InputError, match=r"line 1: template 'chat': .* omits turn 1 \(system"):
        read(tmp_path, {"messages": [SYSTEM, USER, GOOD]}, tokenizer=Hiding(), template="chat")


@pytest.mark.parametrize("row", [SHAPES["messages"], SHAPES["instruction"], SHAPES["preferences"], SHAPES["KTO"]])
def test_calibration_rows_are_the_same_tokens_in_every_shape(tmp_path, tokenizer, row):
    words = json.dumps([row] * 3).replace('"q"', '"how do i"').replace('"a"', '"i cannot"')
    (tmp_path / "shaped.json").write_text(words)
    plain = save(tmp_path, [{"prompt": "how do i", "response": "i cannot"}] * 3)
    options = {"max_length": 16, "template": "chat"}
    expected = load_calibration(plain, tokenizer, **options)
    found = load_calibration(str(tmp_path / "shaped.json"), tokenizer, **options)
    assert found.counts == expected.counts
    assert [row[0].ids.tolist() for row in found.rows] == [row[0].ids.tolist() for row in expected.rows]


def test_rows_left_out_are_counted(tmp_path, tokenizer):
    rows = [{**PLAIN, "response": "no", "is_safe": safe} for safe in (True, False, False)]
    counts = load_calibration(save(tmp_path, rows), tokenizer, max_length=16).counts
    assert (counts["rows"], counts["used"], counts["skipped_unsafe"]) == (3, 1, 2)
