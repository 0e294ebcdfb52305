"""End tokens as the files of a model directory name them."""

import json

import numpy as np
import pytest
import torch

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.end_tokens import read_end_tokens
from tests.parity.peers import save_peer, tokens

FILES = ("generation_config.json", "config.json")
ABSENT = object()


def write(folder, generation, config):
    for name, value in zip(FILES, (generation, config), strict=True):
        if value is not ABSENT:
            (folder / name).write_text(json.dumps({"other": 1, "eos_token_id": value}))


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (5, 2, (5,)),
        ([5, 7], 2, (5, 7)),
        ([7, 5, 7], 2, (7, 5)),
        (0, [2], (0,)),
        (ABSENT, 2, (2,)),
        (ABSENT, [2, 3], (2, 3)),
        (None, [2, 3], (2, 3)),
        ([], 2, (2,)),
        ([], [], ()),
        (ABSENT, None, ()),
        (ABSENT, ABSENT, ()),
    ],
)
def test_the_generation_config_comes_first(tmp_path, generation, config, expected):
    write(tmp_path, generation, config)
    assert read_end_tokens(tmp_path, 10) == (expected, [])


@pytest.mark.parametrize(
    ("generation", "config", "expected", "shown"),
    [
        ([5, None], 2, (5,), "null"),
        ([5, 10, -1], 2, (5,), "10, -1"),
        (10, 2, (2,), "10"),
        (-1, -1, (), "-1"),
        (ABSENT, [None, 3], (3,), "null"),
    ],
)
def test_what_is_no_token_is_left_out_with_a_note(tmp_path, generation, config, expected, shown):
    write(tmp_path, generation, config)
    found, notes = read_end_tokens(tmp_path, 10)
    assert found == expected
    assert f"eos_token_id holds {shown}, not in the vocabulary of 10; left out" in notes[0]


@pytest.mark.parametrize("value", ["</s>", [5, "</s>"], [5, 2.5], 2.0, True, [[5]], {"a": 5}])
def test_what_names_no_token_is_refused(tmp_path, value):
    write(tmp_path, value, 2)
    with pytest.raises(
        InputError, match=r"generation_config\.json: eos_token_id is .*; expected a token id or a list"
    ):
        read_end_tokens(tmp_path, 10)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / FILES[0]).write_text("{")
    with pytest.raises(InputError, match="generation config is not JSON"):
        read_end_tokens(tmp_path, 10)


def test_models_know_their_end_tokens_and_keep_them_when_saved(tmp_path):
    save_peer("llama2", tmp_path / "one")
    (tmp_path / "one" / FILES[0]).write_text('{"eos_token_id": [40, 41, 500]}')
    with pytest.warns(UserWarning, match="eos_token_id holds 500"):
        model, params = nlsr_jax.load_model(tmp_path / "one")
    assert model.config.end_tokens == (40, 41)
    nlsr_jax.models.save_model(model, params, tmp_path / "two")
    again, _ = nlsr_jax.load_model(tmp_path / "two")
    assert again.config.end_tokens == (40, 41)
    assert again.config == model.config


@pytest.mark.parametrize("place", FILES)
@pytest.mark.parametrize("several", [False, True])
def test_generation_stops_where_transformers_stops(tmp_path, place, several):
    from transformers import AutoModelForCausalLM

    from nlsr_jax.evaluation.responses import continue_tokens

    save_peer("llama2", tmp_path)
    model, params = nlsr_jax.load_model(tmp_path)
    ids = tokens(4, 3, 6)
    free = np.asarray(nlsr_jax.generate(model, params, ids, max_new_tokens=12))
    ends = [int(free[0, 2]), int(free[1, 5])] if several else int(free[0, 2])
    (tmp_path / FILES[0]).unlink()
    fields = json.loads((tmp_path / place).read_text()) if (tmp_path / place).exists() else {}
    (tmp_path / place).write_text(json.dumps({**fields, "eos_token_id": ends}))
    model, params = nlsr_jax.load_model(tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    settings = {"max_new_tokens": 12, "max_length": 32, "batch_size": 2}
    ours = continue_tokens(model, params, ids.tolist(), eos_id=model.config.end_tokens, **settings)
    for row, found in zip(ids, ours, strict=True):
        with torch.no_grad():
            made = peer.generate(torch.tensor(row[None].astype(np.int64)), max_new_tokens=12, do_sample=False)
        theirs = made[0, 6:].tolist()
        assert found == (theirs[:-1] if theirs[-1] in model.config.end_tokens else theirs)
