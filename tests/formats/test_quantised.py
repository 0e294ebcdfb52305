"""Quantised checkpoints: the numbers of the libraries that wrote them, and one clear line for what does not fit."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.hugging_face import open_weights, read_config
from nlsr_jax.formats.quantised_codes import AWQ_ORDER, dequantise_4bit, dequantise_nested
from tests.parity.peers import peer_logits
from tests.quantised_models import (
    WEIGHTS,
    edit_config,
    pack,
    save_bitsandbytes,
    save_changed,
    save_fp8,
    save_wide,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers, about devices that are not there
LOGITS = 2e-5
"""Of logits around 0.3 in float32, whose sums run in another order than transformers'."""
KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4 double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "fp4 double": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "nf4 stored as bfloat16": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_quant_storage": "bfloat16",
    },
    "int8": {"load_in_8bit": True},
    "int8 with skipped modules": {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "o_proj"]},
    "nf4 with skipped modules": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"],
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_wide(tmp_path_factory.mktemp("wide") / "base")


@pytest.fixture(scope="module")
def nf4(base, tmp_path_factory):
    return save_bitsandbytes(base, tmp_path_factory.mktemp("nf4") / "q", **KINDS["nf4 double"])


def read_all(folder):
    """All weights of a folder as they are read, by their names in a checkpoint of floats."""
    weights = open_weights(folder, read_config(folder))
    assert weights.notes == ()
    return {name: file.read(own) for name, (file, own) in weights.files.items()}


def dequantised_peer(folder, dtype):
    from transformers import AutoModelForCausalLM

    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), device_map="cpu")
    if getattr(peer, "is_quantized", False):
        peer = peer.dequantize(dtype=getattr(torch, dtype))
    return peer.eval()


def check_against_peer(folder, dtype="float32"):
    """Compare every weight bit by bit, and the logits, with transformers' dequantised model."""
    peer = dequantised_peer(folder, dtype)
    state, ours = peer.state_dict(), read_all(folder)
    assert set(ours) == set(state)
    kept = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    for name, value in ours.items():
        np.testing.assert_array_equal(value.astype(kept).astype(np.float32), state[name].float().numpy(), name)
    model, params = nlsr_jax.load_model(folder)
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (2, 9)).astype(np.int32)
    found, expected = nlsr_jax.logits(model, params, ids), peer_logits(peer.float(), ids)
    assert np.abs(np.asarray(found) - expected).max() < (LOGITS if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_bitsandbytes_writes_is_read_as_it_dequantises(base, tmp_path, kind):
    check_against_peer(save_bitsandbytes(base, tmp_path / "q", **KINDS[kind]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["nf4 double", "fp4", "int8"])
def test_models_of_half_precision(base, tmp_path, kind, dtype):
    check_against_peer(save_bitsandbytes(base, tmp_path / "q", dtype, **KINDS[kind]), dtype)


@pytest.mark.parametrize("shape", [(64, 128), (33, 31), (5, 7), (64, 96), (1, 1)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("blocksize", [32, 64, 256, 4096])
def test_every_shape_and_blocksize(tmp_path, shape, kind, double, blocksize):
    """Rows that end within a block, too: there bitsandbytes' kernel for AVX-512 differs from its own reference."""
    from bitsandbytes import functional
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    torch.manual_seed(blocksize)
    packed, state = functional.quantize_4bit(
        torch.randn(shape), blocksize=blocksize, compress_statistics=double, quant_type=kind
    )
    absmax = state.absmax
    if double:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
        found = dequantise_nested(
            state.absmax.numpy(),
            state.state2.absmax.numpy(),
            state.state2.code.numpy(),
            state.state2.blocksize,
            state.offset.item(),
        )
        np.testing.assert_array_equal(found, absmax.numpy())
    with torch.compiler.set_stance("force_eager"):
        expected = _dequantize_4bit_compute(
            packed.reshape(-1), absmax, state.code, blocksize, shape, torch.float32
        ).numpy()
    found = dequantise_4bit(packed.numpy().ravel(), absmax.numpy(), state.code.numpy(), blocksize)
    np.testing.assert_array_equal(found[: expected.size].reshape(shape), expected)


def test_rows_are_those_of_the_whole_weight(nf4):
    weights = open_weights(nf4, read_config(nf4))
    file, own = weights.files["model.layers.0.mlp.down_proj.weight"]
    whole = file.read(own)
    for rows in (slice(0, 1), slice(7, 31), slice(63, 64), slice(None), slice(5, 5)):
        np.testing.assert_array_equal(file.read_rows(own, rows), whole[rows])
    assert b"".join(bytes(block) for block in file.blocks(own)) == whole.tobytes()


def test_rows_of_narrow_weights_start_within_a_block(tmp_path):
    """A row of 24 numbers: blocks of 64 begin in the middle of one."""
    from bitsandbytes import functional

    from nlsr_jax.files.safetensors_files import open_checked
    from nlsr_jax.formats.quantised_bitsandbytes import find_4bit

    torch.manual_seed(0)
    packed, state = functional.quantize_4bit(torch.randn(50, 24), quant_type="nf4", compress_statistics=True)
    parts = {f"w.weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    save_file({"w.weight": packed, **parts}, tmp_path / WEIGHTS)
    file = open_checked(tmp_path / WEIGHTS)
    (weight,) = find_4bit(dict.fromkeys(file.names(), file), None).weights.values()
    whole = weight.read("w.weight")
    for row in range(50):
        np.testing.assert_array_equal(weight.read_rows("w.weight", slice(row, row + 1))[0], whole[row])


@pytest.mark.parametrize("block", [(32, 32), (64, 64), None])
def test_fp8_blocks(base, tmp_path, block):
    check_against_peer(save_fp8(base, tmp_path / "q", block))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fp8_of_half_precision(tmp_path, dtype):
    half = save_wide(tmp_path / "base", dtype=dtype)
    check_against_peer(save_fp8(half, tmp_path / "q", (32, 32)), dtype)


def test_fp8_scales_of_powers_of_two(base, tmp_path):
    check_against_peer(save_fp8(base, tmp_path / "q", (32, 32), "ue8m0"))


def test_fp8_blocks_that_do_not_divide_the_weight(base, tmp_path):
    """The last block is cut, which the size in the config tells."""
    folder = save_changed(base, tmp_path / "q", cut_blocks, {"quant_method": "fp8", "weight_block_size": [48, 48]})
    plain = {name: value.numpy() for name, value in load_file(base / WEIGHTS).items()}
    for name, value in read_all(folder).items():
        np.testing.assert_allclose(value, plain[name], rtol=2**-3, atol=1e-4)


def cut_blocks(name, value):
    rows, columns = (torch.arange(size) // 48 for size in value.shape)
    grid = torch.zeros(int(rows[-1]) + 1, int(columns[-1]) + 1)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            grid[i, j] = value[rows == i][:, columns == j].abs().max() / 448
    return {name: (value / grid[rows][:, columns]).to(torch.float8_e4m3fn), f"{name}_scale_inv": grid}


def scaled_rows(name, value, dtype, kind):
    largest = 127 if kind is torch.int8 else 448
    scale = (value.abs().amax(dim=1, keepdim=True) / largest).to(dtype)
    numbers = value / scale.float()
    return {name: (numbers.round() if kind is torch.int8 else numbers).to(kind), f"{name}_scale": scale}


@pytest.mark.parametrize(
    ("kind", "form"), [(torch.float8_e4m3fn, "float-quantized"), (torch.int8, "int-quantized")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compressed_tensors(base, tmp_path, kind, form, dtype):
    """compressed-tensors multiplies in the type of its scales."""
    field = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": {"weights": {}}}}
    folder = save_changed(base, tmp_path / "q", lambda n, v: scaled_rows(n, v, dtype, kind), field)
    stored = load_file(folder / WEIGHTS)
    found = read_all(folder)
    assert len(found) == 21
    for name, value in found.items():
        expected = stored[name]
        if f"{name}_scale" in stored:
            expected = expected.to(dtype) * stored[f"{name}_scale"]
        np.testing.assert_array_equal(value.astype(np.float32), expected.float().numpy())


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("order", [False, True])
def test_gptq(base, tmp_path, bits, order, version):
    """In float16, as GPTQModel's reference does; ``g_idx`` of any order, as after act-order."""
    random, truth = np.random.default_rng(bits), {}

    def change(name, value):
        (d, k), stem = value.shape, name.removesuffix("weight")
        groups = np.arange(k) // 16
        groups = random.permutation(groups) if order else groups
        numbers = random.integers(0, 2**bits, (k, d))
        zeros = random.integers(1, 2**bits, (k // 16, d))
        scales = random.normal(size=(k // 16, d)).astype(np.float16)
        truth[name] = (scales[groups] * (numbers - zeros[groups]).astype(np.float16)).T
        parts = {
            "qweight": pack(numbers, bits, 0),
            "qzeros": pack(zeros - (version == "gptq"), bits, 1),
            "scales": scales,
            "g_idx": groups.astype(np.int32),
        }
        return {stem + part: torch.from_numpy(array) for part, array in parts.items()}

    field = {"quant_method": "gptq", "bits": bits, "group_size": 16, "checkpoint_format": version}
    found = read_all(save_changed(base, tmp_path / "q", change, field))
    for name, expected in truth.items():
        np.testing.assert_array_equal(found[name], expected)


def test_awq(base, tmp_path):
    random, truth = np.random.default_rng(0), {}

    def change(name, value):
        (d, k), stem = value.shape, name.removesuffix("weight")
        numbers, zeros = random.integers(0, 16, (k, d)), random.integers(0, 16, (k // 32, d))
        scales = random.normal(size=(k // 32, d)).astype(np.float16)
        spread = np.repeat(zeros, 32, 0), np.repeat(scales, 32, 0)
        truth[name] = ((numbers - spread[0]).astype(np.float16) * spread[1]).T
        parts = {
            "qweight": pack(numbers, 4, 1, AWQ_ORDER),
            "qzeros": pack(zeros, 4, 1, AWQ_ORDER),
            "scales": scales,
        }
        return {stem + part: torch.from_numpy(array) for part, array in parts.items()}

    field = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    folder = save_changed(base, tmp_path / "q", change, field)
    found = read_all(folder)
    for name, expected in truth.items():
        np.testing.assert_array_equal(found[name], expected)
    weights = open_weights(folder, read_config(folder))
    file, own = weights.files["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(file.read_rows(own, slice(13, 30)), truth[own][13:30])


def edit(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


Q = "model.layers.0.self_attn.q_proj.weight"
STATE = f"{Q}.quant_state.bitsandbytes__nf4"


def state_with(**changes):
    def change(tensors):
        state = {**json.loads(bytes(tensors[STATE].numpy())), **changes}
        tensors[STATE] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.absmax"), f"{Q} is quantised, and {Q}.absmax is missing"),
        (lambda t: t.pop(f"{Q}.nested_quant_map"), "nested_quant_map is missing"),
        (lambda t: t.pop(Q), "describes a weight that is missing"),
        (lambda t: t.pop(STATE), "unexpected weight .*absmax"),
        (lambda t: t.update({STATE: torch.zeros(9, dtype=torch.uint8)}), "is not the JSON text"),
        (lambda t: t.update({f"{Q}.absmax": t[f"{Q}.absmax"][:-1].clone()}), r"is \[63\]; expected \[64\]"),
        (lambda t: t.update({f"{Q}.quant_map": torch.zeros(16)}), "holds other values than nf4's"),
        (lambda t: t.update({Q: t[Q][:-1].clone()}), r"expected the 2048 bytes of \[64, 64\]"),
        (state_with(blocksize=63), "blocksize is 63"),
        (state_with(quant_type="fp4"), "says 'fp4' of 'float32'; expected nf4"),
        (state_with(shape=[64, 32]), r"expected the 1024 bytes of \[64, 32\]"),
        (state_with(nested_offset="x"), "nested_offset is 'x'"),
        (state_with(nested_dtype="float16"), "nested_dtype is 'float16'"),
    ],
)
def test_damaged_4bit_weights(nf4, tmp_path, change, message):
    shutil.copytree(nf4, tmp_path / "q")
    edit(tmp_path / "q", change)
    with pytest.raises(InputError, match=message) as caught:
        nlsr_jax.load_model(tmp_path / "q")
    assert "\n" not in str(caught.value)


def test_a_skipped_module_that_is_quantised(nf4, tmp_path):
    shutil.copytree(nf4, tmp_path / "q")
    field = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    edit_config(tmp_path / "q", quantization_config={**field, "llm_int8_skip_modules": ["self_attn.q_proj"]})
    with pytest.raises(InputError, match=r"says that self_attn\.q_proj is not"):
        nlsr_jax.load_model(tmp_path / "q")


def test_a_config_without_quantised_weights(base, tmp_path):
    shutil.copytree(base, tmp_path / "q")
    edit_config(tmp_path / "q", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    notes = []
    nlsr_jax.load_model(tmp_path / "q", note=notes.append)
    assert "no weight is quantised" in notes[0]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"quant_method": "hqq"}, "quant_method is 'hqq', which is not read; give the full-precision model"),
        ({"quant_method": "mxfp4"}, "quant_method is 'mxfp4'"),
        ({"bits": 4}, "quant_method is None"),
        ([1], "expected an object"),
        ({"quant_method": "bitsandbytes"}, "expected one of them"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": 1}, "expected true or false"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf3"}, "expected nf4 or fp4"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": "lm_head"}, "expected a list of module names"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "expected two numbers"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "expected a positive whole number"),
        ({"quant_method": "gptq", "bits": 3}, "2 or 4 or 8 are read"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemm alone is read"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "format is 'pack-quantized'"),
    ],
)
def test_configs_that_are_refused(base, tmp_path, field, message):
    shutil.copytree(base, tmp_path / "q")
    edit_config(tmp_path / "q", quantization_config=field)
    with pytest.raises(InputError, match=message) as caught:
        nlsr_jax.load_model(tmp_path / "q")
    assert "\n" not in str(caught.value)


def test_int8_of_other_layouts_is_refused(base, tmp_path):
    folder = save_bitsandbytes(base, tmp_path / "q", **KINDS["int8"])
    edit(folder, lambda t: t.update({f"{Q}_format": torch.tensor(2, dtype=torch.uint8)}))
    with pytest.raises(InputError, match="is col_turing; expected row"):
        nlsr_jax.load_model(folder)


def test_fp8_without_scales_is_refused(base, tmp_path):
    folder = save_fp8(base, tmp_path / "q", (32, 32))
    edit(folder, lambda t: t.pop(f"{Q}_scale_inv"))
    with pytest.raises(InputError, match="has type F8_E4M3 and no scales beside it"):
        nlsr_jax.load_model(folder)
