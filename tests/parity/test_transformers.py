"""Logits and generation of every family against transformers, in float32."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nlsr_jax
from tests.e2e.command import python
from tests.parity.comparison import difference, generates_alike, load_pair, padded
from tests.parity.peers import VARIANTS, make_peer, peer_logits, save_peer, tokens

# The acceptance bound on logits of order 1 to 10.
LARGEST = 1e-4
SAVED = (
    *("llama3", "qwen2_window", "qwen3_biases", "mistral", "gemma_untied_biases", "gemma2", "gemma3_scaled"),
    *("phi3", "phi35_long", "phi4_mini", "olmo2", "qwen3_moe", "mixtral_window"),
)
GENERATING = (
    *("llama2", "qwen2_window", "qwen3", "gemma2", "gemma3", "phi3", "phi35_crossing", "phi4_mini"),
    *("qwen3_moe", "mixtral_window"),
)
"""All that generation adds to a pass: a cache with its positions and windows."""
WHOLE = ("llama2", "gemma3", "mixtral")
"""Here rows are run without a mask too; in all variants with a mask."""


@pytest.fixture(scope="module", params=list(VARIANTS))
def pair(request, tmp_path_factory):
    return load_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("pair", WHOLE, indirect=True)
def test_logits(pair):
    assert difference(pair, tokens(0, 3, 20)) < LARGEST


def test_logits_with_padding(pair):
    for side in ("left", "right"):
        assert difference(pair, *padded(side, tokens(1, 3, 20))) < LARGEST


@pytest.mark.parametrize("pair", ["llama3", "gemma3", "phi35_crossing", "qwen3_moe"], indirect=True)
def test_padding_does_not_change_a_row(pair):
    _, model, params = pair
    ids, mask = padded("left", tokens(2, 3, 20))
    together = nlsr_jax.logits(model, params, ids, attention_mask=mask)
    alone = nlsr_jax.logits(model, params, ids[2:, 7:])
    assert np.abs(np.asarray(together[2, 7:]) - np.asarray(alone[0])).max() < LARGEST


@pytest.mark.parametrize("pair", GENERATING, indirect=True)
def test_greedy_generation(pair):
    ids = tokens(3, 3, 12)
    assert generates_alike(pair, ids, np.ones(ids.shape, bool))
    assert generates_alike(pair, *padded("left", ids))


@pytest.mark.parametrize("pair", ["llama2"], indirect=True)
def test_generation_stops_each_row_at_its_end(pair):
    """Where a row stops depends on its tokens alone, not on the family."""
    _, model, params = pair
    ids = tokens(4, 3, 6)
    free = np.asarray(nlsr_jax.generate(model, params, ids, max_new_tokens=12))
    ends = (int(free[0, 2]), int(free[1, 5]))
    stopped = np.asarray(nlsr_jax.generate(model, params, ids, max_new_tokens=12, eos_id=ends, pad_id=96))
    for row in range(3):
        hits = np.flatnonzero(np.isin(free[row], ends))
        last = hits[0] + 1 if hits.size else 12
        np.testing.assert_array_equal(stopped[row, :last], free[row, :last])
        assert (stopped[row, last:] == 96).all()


@pytest.mark.long
def test_programs_compiled_as_users_compile_them_agree_too():
    env = {"XLA_FLAGS": None, "JAX_DISABLE_MOST_OPTIMIZATIONS": None}
    (line,) = python("-m", "tests.parity.table", "gemma3", env=env).stdout.splitlines()[4:]
    _, variant, _, *apart, generated, padded_generated, _ = (part.strip() for part in line.split("|"))
    assert (variant, generated, padded_generated) == ("gemma3", "equal", "equal")
    assert max(map(float, apart)) < 1e-5


def test_sampling_follows_the_key_and_the_distribution(tmp_path):
    save_peer("llama2", tmp_path)
    model, params = nlsr_jax.load_model(tmp_path)
    ids = np.repeat(tokens(5, 1, 4), 4000, axis=0)
    draw = lambda seed: np.asarray(  # noqa: E731
        nlsr_jax.generate(model, params, ids, max_new_tokens=1, temperature=3.0, key=jax.random.key(seed))
    )
    first = draw(0)
    np.testing.assert_array_equal(first, draw(0))
    assert not np.array_equal(first, draw(1))
    expected = jax.nn.softmax(nlsr_jax.logits(model, params, ids[:1])[0, -1] / 3.0)
    found = np.bincount(first[:, 0], minlength=97) / 4000
    # Total variation between 4000 draws and their distribution over 97 tokens is about 0.06.
    assert 0.5 * np.abs(found - np.asarray(expected)).sum() < 0.12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_float_type_and_sharded_files(tmp_path, dtype):
    from transformers import AutoModelForCausalLM

    make_peer("qwen3").to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model, params = nlsr_jax.load_model(tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = tokens(6, 2, 10)
    assert np.abs(np.asarray(nlsr_jax.logits(model, params, ids)) - peer_logits(peer, ids)).max() < LARGEST


def test_bfloat16_weights_stay_close(tmp_path):
    peer = save_peer("llama3", tmp_path)
    model, params = nlsr_jax.load_model(tmp_path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    ids = tokens(7, 2, 10)
    ours, theirs = np.asarray(nlsr_jax.logits(model, params, ids)), peer_logits(peer, ids)
    assert ours.dtype == np.float32
    # Eight bits of mantissa over three layers.
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


@pytest.mark.parametrize("variant", SAVED)
def test_what_we_save_transformers_loads(tmp_path, variant):
    from transformers import AutoModelForCausalLM

    peer = save_peer(variant, tmp_path / "theirs")
    model, params = nlsr_jax.load_model(tmp_path / "theirs")
    nlsr_jax.models.save_model(model, params, tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids = tokens(8, 2, 16)
    np.testing.assert_allclose(peer_logits(again, ids), peer_logits(peer, ids), atol=1e-6)


def test_trained_model(shared_data):
    import json

    folder = shared_data / "stories260K"
    reference = json.loads((folder / "reference.json").read_text())
    model, params = nlsr_jax.load_model(folder)
    ids = np.asarray(reference["greedy_ids"], np.int32)[None]
    scores = np.asarray(nlsr_jax.logits(model, params, ids))[0]
    chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(scores[:-1])), ids[0, 1:, None], 1)
    # Float32 against a float64 forward.
    assert abs(-chosen.mean() - reference["mean_nll"]) < 1e-5
    np.testing.assert_allclose(scores[0, :8], reference["logits_pos0_first8"], atol=1e-4)
    np.testing.assert_allclose(scores[-1, :8], reference["logits_last_first8"], atol=1e-4)
    generated = np.asarray(nlsr_jax.generate(model, params, ids[:, :1], max_new_tokens=256))[0]
    np.testing.assert_array_equal(generated, ids[0, 1:])
    assert decode(folder / "tok512.bin", [1, *generated]).strip() == reference["greedy_text"].strip()


def decode(path, ids) -> str:
    """Decode with a tokenizer in llama2.c's format: u32 longest, then f32 score, u32 length, bytes."""
    import struct

    data, at, pieces = path.read_bytes(), 4, []
    while at < len(data):
        _, length = struct.unpack_from("<fI", data, at)
        pieces.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    text = b""
    for before, now in itertools.pairwise(ids):
        piece = pieces[now]
        if before == 1 and piece.startswith(b" "):
            piece = piece[1:]
        if len(piece) == 6 and piece.startswith(b"<0x"):
            piece = bytes([int(piece[3:5], 16)])
        text += piece
    return text.decode()
