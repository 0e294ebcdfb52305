"""GGUF files become Hugging Face directories, equal to what transformers reads out of them."""

import json

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.formats.gguf_files import _unpermute, convert_gguf

gguf = pytest.importorskip("gguf")
HEADS, KV_HEADS, WIDTH, FORWARD, LAYERS = 4, 2, 64, 96, 2
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"


def _tokens() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "he", "ll", "hell", "Ġw"]


def write_gguf(path, **changes) -> None:
    """Write a small Llama with Q4_1, Q8_0 and F32 tensors, as llama.cpp lays it out."""
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(str(path), changes.get("architecture", "llama"))
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(_tokens())
    writer.add_token_types([3, 3] + [1] * (len(_tokens()) - 2))
    writer.add_token_merges(["h e", "l l", "he ll", "Ġ w"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (len(_tokens()), WIDTH), "output_norm": (WIDTH,)}
    kv = WIDTH // HEADS * KV_HEADS
    for i in range(LAYERS):
        layer = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH)}
        layer |= {"attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_gate": (FORWARD, WIDTH)}
        layer |= {"ffn_up": (FORWARD, WIDTH), "ffn_down": (WIDTH, FORWARD)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    if "extra" in changes:
        shapes[changes["extra"]] = (WIDTH,)
    kinds = gguf.GGMLQuantizationType
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32) * 0.1
        kind = kinds.F32 if len(shape) == 1 else kinds.Q8_0 if name == "token_embd" else kinds.Q4_1
        raw = gguf.quants.quantize(value, kind)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_and_tokenizer_are_those_that_transformers_reads(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_gguf(tmp_path / "model.gguf")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    one, two = theirs.state_dict(), ours.state_dict()
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=0, atol=0)
    own, other = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf"),
    )
    for text in ("hello world 2024", "  two\n\nlines\t", "Déjà vu 🙂", "<s>hello</s>"):
        assert own(text)["input_ids"] == other(text)["input_ids"]
        assert own.decode(own(text)["input_ids"]) == text
    assert (own.bos_token_id, own.eos_token_id) == (0, 1)
    assert own.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<s>hi</s>"


def test_our_model_reads_the_directory(tmp_path):
    import nlsr_jax

    write_gguf(tmp_path / "model.gguf")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    model, params = nlsr_jax.load_model(tmp_path / "out")
    assert model.config.tied
    assert params["layers"]["k_proj"]["kernel"].shape == (LAYERS, WIDTH // HEADS * KV_HEADS, WIDTH)


def test_rows_of_a_head_go_back_to_two_halves():
    """llama.cpp pairs rows i and i + half of a head; its inverse keeps the head itself."""
    rows = np.arange(8)[:, None]
    paired = rows.reshape(2, 2, 2, 1).swapaxes(1, 2).reshape(8, 1)  # as convert_hf_to_gguf permutes
    np.testing.assert_array_equal(_unpermute(paired, 2), rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gemma3"}, "architecture is 'gemma3'"),
        ({"tokenizer": "llama"}, "tokenizer is 'llama'"),
        ({"extra": "blk.0.attn_q_norm"}, "unexpected tensor blk.0.attn_q_norm.weight"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, changes, message):
    write_gguf(tmp_path / "model.gguf", **changes)
    with pytest.raises(InputError, match=message):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_and_one_that_is_not_there(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(InputError, match="not a GGUF file"):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "out")


def test_an_output_that_exists_is_refused_and_kept(tmp_path):
    write_gguf(tmp_path / "model.gguf")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 5000.0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
