"""Batched responses against single ones, and how responses are cut."""

import dataclasses

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation import responses
from nlsr_jax.evaluation.responses import clean_response, continue_tokens, first_tokens, respond
from tests.evaluation.machines import add_end, make_machine, make_tokenizer
from tests.tiny_base import WORDS, save_base

PROMPTS = [" ".join((WORDS * 2)[i : i + (2, 17, 34)[i % 3]]) for i in range(7)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_base(tmp_path_factory.mktemp("base") / "model", layers=1)
    return *nlsr_jax.load_model(folder), load_tokenizer(str(folder))


def make_adapter(scale):
    keys = jax.random.split(jax.random.key(0))
    a, b = jax.random.normal(keys[0], (1, 4, 32)), jax.random.normal(keys[1], (1, 32, 4))
    return nlsr_jax.Adapter({"q_proj": {"a": a, "b": b * scale}, "o_proj": {"a": a, "b": b * scale}})


def test_batches_answer_like_single_prompts(base):
    model, params, tokenizer = base
    adapter = make_adapter(0.5)
    together = respond(model, params, tokenizer, PROMPTS, adapter=adapter, max_new_tokens=6, batch_size=3)
    for prompt, response in zip(PROMPTS, together, strict=True):
        ids = np.asarray([tokenizer(prompt)["input_ids"]])
        settings = {"max_new_tokens": 6, "eos_id": tokenizer.eos_token_id}
        out = nlsr_jax.generate(model, params, ids, adapter=adapter, **settings)
        assert response == tokenizer.decode(np.asarray(out)[0], skip_special_tokens=True)
    plain = respond(model, params, tokenizer, PROMPTS[:3], max_new_tokens=6, batch_size=3)
    assert plain != together[:3]


def test_weights_that_are_joined_once_give_the_same_answers(base, monkeypatch):
    settings = {"max_new_tokens": 6, "batch_size": 3}
    for adapter in (make_adapter(0.5), None, [make_adapter(0.5), make_adapter(-1.0)]):
        expected = respond(*base, PROMPTS, adapter=adapter, **settings)
        monkeypatch.setattr(responses, "_LARGE", 0)
        assert respond(*base, PROMPTS, adapter=adapter, **settings) == expected
        monkeypatch.undo()


def test_several_adapters_answer_as_each_alone(base):
    adapters = [make_adapter(scale) for scale in (0.5, 1.0, -1.0)]
    settings = {"max_new_tokens": 6, "batch_size": 3}
    found = respond(*base, PROMPTS, adapter=adapters, **settings)
    assert found == [respond(*base, PROMPTS, adapter=adapter, **settings) for adapter in adapters]
    assert len({tuple(rows) for rows in found}) == 3
    assert respond(*base, [], adapter=adapters, **settings) == [[], [], []]


def test_responses_end_with_the_end_token():
    tokenizer = make_tokenizer(["brew", "zarn", "stir", "fold"])
    table = {"brew": {"zarn": 4.0}, "zarn": {"stir": 4.0}, "stir": {"</s>": 4.0}, "fold": {"fold": 4.0}}
    prompts = ["fold brew", "fold", "stir"]
    machine = make_machine(tokenizer, table)
    found = respond(*machine, tokenizer, prompts, max_new_tokens=4)
    assert found == ["zarn stir", "fold fold fold fold", ""]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    settings = {"max_new_tokens": 4, "max_length": 32, "batch_size": 2}
    ended = continue_tokens(*machine, ids, eos_id=tokenizer.eos_token_id, **settings)
    assert [len(row) for row in ended] == [2, 4, 0]
    assert [len(row) for row in continue_tokens(*machine, ids, eos_id=None, **settings)] == [4, 4, 4]


def named(machine, *words):
    """A machine whose files name these words as end tokens."""
    model, params, tokenizer = machine
    ends = tuple(tokenizer.get_vocab()[word] for word in words)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, end_tokens=ends)), params, tokenizer


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((), ["zarn stir", "fold fold fold fold", ""]),
        (("stir",), ["zarn", "fold fold fold fold", ""]),
        (("stir", "fold"), ["zarn", "", ""]),
        (("zarn", "stir"), ["", "fold fold fold fold", ""]),
    ],
)
def test_every_end_token_of_model_and_tokenizer_ends_a_response(ends, expected):
    tokenizer = make_tokenizer(["brew", "zarn", "stir", "fold"])
    table = {"brew": {"zarn": 4.0}, "zarn": {"stir": 4.0}, "stir": {"</s>": 4.0}, "fold": {"fold": 4.0}}
    machine = named((*make_machine(tokenizer, table), tokenizer), *ends)
    assert respond(*machine, ["fold brew", "fold", "stir"], max_new_tokens=4) == expected


def test_several_adapters_end_at_every_end_token():
    tokenizer = make_tokenizer(["brew", "zarn", "stir", "fold"])
    table = {"brew": {"zarn": 4.0}, "zarn": {"stir": 4.0}, "stir": {"</s>": 4.0}, "fold": {"fold": 4.0}}
    machine = named((*make_machine(tokenizer, table), tokenizer), "stir", "fold")
    width = machine[0].config.hidden_size
    nothing = nlsr_jax.Adapter({"q_proj": {"a": np.zeros((1, 2, width)), "b": np.zeros((1, width, 2))}})
    found = respond(*machine, ["fold brew", "fold", "stir"], adapter=[nothing, nothing], max_new_tokens=4)
    assert found == [["zarn", "", ""]] * 2


def test_a_tokenizer_without_an_end_token_stops_at_the_models():
    tokenizer = make_tokenizer(["brew", "zarn"])
    machine = named((*make_machine(tokenizer, {"brew": {"zarn": 4.0}, "zarn": {"brew": 4.0}}), tokenizer), "zarn")
    tokenizer.eos_token = None
    assert respond(*machine, ["zarn", "brew"], max_new_tokens=3) == ["brew", ""]


def test_questions_are_the_tokens_of_training():
    """A tokenizer that adds an end token would have the model answer behind it."""
    tokenizer = make_tokenizer(["brew", "zarn", "stir"])
    machine = make_machine(tokenizer, {"brew": {"zarn": 4.0}, "zarn": {"</s>": 4.0}, "</s>": {"stir": 4.0}})
    expected = respond(*machine, tokenizer, ["stir brew", "<s> brew"], max_new_tokens=3)
    add_end(tokenizer)
    assert tokenizer("brew")["input_ids"][-1] == tokenizer.eos_token_id
    assert respond(*machine, tokenizer, ["stir brew", "<s> brew"], max_new_tokens=3) == expected == ["zarn", "zarn"]


def test_a_question_with_a_token_that_the_embedding_has_not_is_refused():
    tokenizer = make_tokenizer(["brew", "zarn"])
    machine = make_machine(tokenizer, {})
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match=r"row 1: tokens run from 1 to 6; the vocabulary has 6: .*'<new>' has no"):
        respond(*machine, tokenizer, ["brew", "brew <new>"], max_new_tokens=3)


def test_long_prompts_are_refused(base):
    with pytest.raises(InputError, match="row 1: 6 tokens"):
        respond(*base, ["how do", "how do i brew zarn"], max_length=5)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" Stir it. ", "Stir it."),
        ("Stir it.!!!!!!", "Stir it."),
        ("Stir it!", "Stir it!"),
        ("Stir it. ### Response: Fold it.", "Stir it."),
        ("Stir. ### Instruction: Fold it.", "Stir. ### Instruction: Fold it."),
    ],
)
def test_cuts(text, kept):
    assert clean_response(text) == kept


def test_first_tokens(base):
    tokenizer = base[2]
    assert first_tokens(tokenizer, "brew  zarn", 2) == "brew  zarn"
    assert first_tokens(tokenizer, "brew zarn slowly", 2) == "brew zarn"
    assert first_tokens(tokenizer, "brew zarn slowly", None) == "brew zarn slowly"
    with pytest.raises(InputError, match="count"):
        first_tokens(tokenizer, "brew", 0)


def test_what_all_prompts_begin_with_is_shared():
    """The prefix is what all share, and every prompt keeps a token of its own."""
    system = list(range(20))
    assert responses.shared_beginning([[*system, 1], [*system, 2, 3]]) == 20
    assert responses.shared_beginning([system, [*system, 2]]) == 19
    assert responses.shared_beginning([system[:9], [*system[:9], 1]]) == 0  # too short to be worth it
    assert responses.shared_beginning([system]) == 0
