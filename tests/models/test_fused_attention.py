"""Fused attention without an accelerator: what is lowered for one, what its kernels compute, what is refused."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax import hardware
from nlsr_jax.errors import InputError
from nlsr_jax.models import fused_attention
from nlsr_jax.models.attention import attend
from nlsr_jax.models.fused_attention import attend_fused, check_attention
from nlsr_jax.models.generate import generate
from nlsr_jax.models.llama import Llama
from tests.training import tiny

B, K, G = 2, 2, 2


def draw(length, width, dtype=jnp.bfloat16):
    shapes = (B, length, K, G, width), (B, K, length, width), (B, K, length, width)
    return [jax.random.normal(jax.random.key(i), shape).astype(dtype) for i, shape in enumerate(shapes)]


def causal(length):
    return jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (B, length, length))


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's kernel, as JAX lowers it where the library is."""
    from jax._src.cudnn import fused_attention_stablehlo

    library = types.SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", library)


def without_cudnn(monkeypatch):
    """The same calls with JAX's own attention in place of cuDNN's kernel."""
    given = jax.nn.dot_product_attention

    def call(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return given(*arrays, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", call)


@pytest.fixture
def fused(monkeypatch):
    """A fused model on this platform, its tokens and parameters, and whether each call asks for a causal mask."""
    without_cudnn(monkeypatch)
    asked = []
    given = jax.nn.dot_product_attention

    def call(*arrays, **options):
        asked.append(options["is_causal"])
        return given(*arrays, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", call)
    monkeypatch.setattr(hardware, "attention_kernel", lambda: "cudnn")
    model = Llama(tiny.CONFIG, attention="fused")
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, tiny.CONFIG.vocab_size)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.init(jax.random.key(1), tokens)["params"])
    asked.clear()
    return model, params, tokens, asked


def lowered(function, platform, *arrays):
    return jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


def test_cudnn_gets_forward_and_backward_pass(cudnn):
    def loss(arrays, mask):
        return jnp.sum(attend_fused("cudnn", *arrays, mask).astype(jnp.float32))

    arrays = draw(32, 16)
    text = lowered(jax.grad(loss), "cuda", arrays, None)
    assert "__cudnn$fmhaSoftmax(" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text
    assert "CAUSAL" in text
    assert "32x32" not in text  # no array of the scores
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in lowered(jax.grad(loss), "cuda", arrays, causal(32))


@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_is_asked_for_the_attention_that_plain_attention_is(monkeypatch, masked):
    without_cudnn(monkeypatch)
    arrays = draw(12, 8)
    mask = causal(12)
    mask = (mask & (jnp.arange(12) >= 3)) | jnp.eye(12, dtype=bool) if masked else mask
    found = attend_fused("cudnn", *arrays, mask if masked else None)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), attend(*arrays, mask).astype(jnp.float32), atol=0.03)


def test_splash_is_plain_attention():
    arrays = draw(128, 128, jnp.float32)
    found = fused_attention._splash(*arrays, interpret=True)
    np.testing.assert_allclose(found, attend(*arrays, causal(128)), atol=1e-5)


def test_splash_has_plain_attentions_gradients():
    arrays = draw(128, 128, jnp.float32)
    weight = jax.random.normal(jax.random.key(9), arrays[0].shape)

    def loss(function, arrays):
        return jnp.sum(weight * jnp.tanh(function(*arrays)))

    found = jax.grad(lambda x: loss(lambda *y: fused_attention._splash(*y, interpret=True), x))(arrays)
    expected = jax.grad(lambda x: loss(lambda *y: attend(*y, causal(128)), x))(arrays)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.max(jnp.abs(other))))


def test_splash_is_lowered_for_tpus_with_its_derivative():
    def loss(arrays):
        return jnp.sum(attend_fused("splash", *arrays, None).astype(jnp.float32))

    assert "tpu_custom_call" in lowered(jax.grad(loss), "tpu", draw(256, 128))


@pytest.mark.parametrize(
    ("kernel", "length", "width", "dtype", "masked"),
    [
        (None, 32, 16, jnp.bfloat16, False),
        ("cudnn", 32, 16, jnp.float32, False),
        ("cudnn", 32, 20, jnp.bfloat16, False),
        ("cudnn", 33, 16, jnp.bfloat16, True),
        ("splash", 128, 128, jnp.bfloat16, True),
        ("splash", 100, 128, jnp.bfloat16, False),
        ("splash", 128, 64, jnp.bfloat16, False),
    ],
)
def test_what_a_kernel_does_not_take_is_left_to_plain_attention(kernel, length, width, dtype, masked):
    assert attend_fused(kernel, *draw(length, width, dtype), causal(length) if masked else None) is None


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_goes_by_the_kernel(fused, padded):
    model, params, tokens, asked = fused
    mask = jnp.arange(8) >= jnp.array([[0], [2]]) if padded else None
    found = model.apply({"params": params}, tokens, mask)
    assert set(asked) == {not padded}
    expected = dataclasses.replace(model, attention="plain").apply({"params": params}, tokens, mask)
    shown = np.ones((2, 8), bool) if mask is None else np.asarray(mask)
    np.testing.assert_allclose(found[shown], expected[shown], atol=0.02)


@pytest.mark.parametrize(
    ("platform", "attention", "dtype", "mesh", "message"),
    [
        ("cpu", "flash", "bfloat16", None, "'flash'; expected one of plain, fused"),
        ("cpu", "fused", "bfloat16", None, "needs a GPU or a TPU, and this is cpu; take 'plain'"),
        ("gpu", "fused", "float32", None, "needs weights of bfloat16 or float16, and dtype is float32"),
        ("gpu", "fused", "bfloat16", object(), "runs on one device, and a mesh is given"),
        ("gpu", "fused", "bfloat16", None, "cannot run here .cuDNN is not detected"),
        ("tpu", "fused", "bfloat16", None, "has no kernel for heads of"),
        ("tpu", "fused", "float16", None, "needs weights of bfloat16, and dtype is float16"),
    ],
)
def test_attention_that_this_machine_has_not_is_refused(monkeypatch, platform, attention, dtype, mesh, message):
    monkeypatch.setattr(hardware, "platform", lambda: platform)
    with pytest.raises(InputError, match=message):
        check_attention(attention, tiny.CONFIG, dtype, mesh)
    check_attention("plain", tiny.CONFIG, dtype, mesh)


def test_a_machine_that_has_cudnn_is_taken(monkeypatch, cudnn):
    monkeypatch.setattr(hardware, "platform", lambda: "gpu")
    check_attention("fused", tiny.CONFIG, "bfloat16")


def test_a_model_refuses_an_attention_that_is_none():
    with pytest.raises(InputError, match="attention is 'fsued'"):
        jax.eval_shape(Llama(tiny.CONFIG, attention="fsued").init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


@pytest.mark.parametrize("mask", [None, np.ones((2, 8), bool)])
def test_generation_without_padding_gives_the_kernel_no_mask(fused, mask):
    model, params, tokens, asked = fused
    generate(model, params, tokens, attention_mask=mask, max_new_tokens=2)
    assert set(asked) == {mask is None}
