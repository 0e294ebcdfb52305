"""Attention by a kernel that never writes the T × S scores: cuDNN's on NVIDIA GPUs, Splash on TPUs.

Axis legend: B batch, T query, S key, K kv heads, G query heads per kv head, H head dim.
Source: ``jax.nn.dot_product_attention`` and ``jax.experimental.pallas.ops.tpu.splash_attention``.
"""

import jax
import jax.numpy as jnp

from nlsr_jax import hardware
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.errors import InputError

ATTENTION = ("plain", "fused")
_DTYPES = {"cudnn": (jnp.bfloat16, jnp.float16), "splash": (jnp.bfloat16,)}
_LANES = 128
"""Splash takes head dims and lengths that are multiples of it."""


def check_attention(attention: str, config: ModelConfig, dtype, mesh=None) -> None:
    """Check that an attention is known, and that this machine has it for a model.

    Args:
      attention: one of ``ATTENTION``.
      config: of the model.
      dtype: of its weights.
      mesh: that it lies over; None for one device.

    Raises:
      InputError: it is not, with the reason.
    """
    if attention not in ATTENTION:
        raise InputError(f"attention is {attention!r}; expected one of {', '.join(ATTENTION)}")
    if attention == "plain":
        return
    kernel, reason = hardware.attention_kernel(), None
    if kernel is None:
        reason = f"needs a GPU or a TPU, and this is {hardware.platform()}"
    elif jnp.dtype(dtype) not in _DTYPES[kernel]:
        names = " or ".join(jnp.dtype(one).name for one in _DTYPES[kernel])
        reason = f"needs weights of {names}, and dtype is {jnp.dtype(dtype).name}"
    elif mesh is not None:
        reason = "runs on one device, and a mesh is given"
    elif not _takes(kernel, config.head_dim):
        reason = f"has no kernel for heads of {config.head_dim}"
    else:
        reason = _missing(kernel, config.head_dim, dtype)
    if reason:
        raise InputError(f"attention 'fused' {reason}; take 'plain'")


def _missing(kernel: str, head_dim: int, dtype) -> str | None:
    """Return what a kernel lacks here, such as the library, by tracing a small call."""
    q = jax.ShapeDtypeStruct((1, _LANES, 1, 1, head_dim), dtype)
    k = jax.ShapeDtypeStruct((1, 1, _LANES, head_dim), dtype)
    try:
        jax.eval_shape(lambda q, k: attend_fused(kernel, q, k, k, None), q, k)
    except (RuntimeError, ImportError) as error:
        return f"cannot run here ({str(error).splitlines()[0]})"
    return None


def _takes(kernel: str, head_dim: int) -> bool:
    return head_dim % _LANES == 0 if kernel == "splash" else head_dim % 8 == 0 and head_dim <= 128


def attend_fused(
    kernel: str | None, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None
) -> jax.Array | None:
    """Return causal grouped-query attention by a fused kernel, or None where it does not take the arrays.

    Args:
      kernel: what ``hardware.attention_kernel`` returns; None for no kernel.
      q: ``[B, T, K, G, H]``.
      k, v: ``[B, K, T, H]``.
      mask: ``[B, T, T]`` bool, True where a query may attend; None where it may attend to itself and all before.

    Returns:
      ``[B, T, K, G, H]`` in the type of ``v``.
    """
    batch, length, heads, group, width = q.shape
    if kernel is None or q.dtype not in _DTYPES[kernel] or not _takes(kernel, width):
        return None
    if kernel == "splash":
        return _splash(q, k, v) if mask is None and length % _LANES == 0 else None
    if mask is not None and length % 2:  # its derivative takes masks of even lengths alone
        return None
    out = jax.nn.dot_product_attention(
        q.reshape(batch, length, heads * group, width),
        jnp.swapaxes(k, 1, 2),
        jnp.swapaxes(v, 1, 2),
        mask=None if mask is None else mask[:, None],
        is_causal=mask is None,
        implementation="cudnn",
    )
    return out.reshape(q.shape)


def _splash(q, k, v, interpret: bool = False):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, length, heads, group, width = q.shape
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * (heads * group))
    kernel = kernels.make_splash_mha(mask, head_shards=1, q_seq_shards=1, interpret=interpret)
    rows = q.reshape(batch, length, heads * group, width) * width**-0.5
    out = jax.vmap(kernel)(jnp.swapaxes(rows, 1, 2), k, v)
    return jnp.swapaxes(out, 1, 2).reshape(q.shape)
