"""Products of activations with weights, and their derivatives, in the faster of two equal ways.

XLA's kernels for the CPU multiply bfloat16 natively if the result is float32 and no operand is transposed first, at
twice the rate of float32. For a bfloat16 result, XLA converts both operands to float32. Either way a product is
summed in float32 and rounded once.
"""

import jax
import jax.numpy as jnp

from nlsr_jax import hardware


def product(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return ``jnp.einsum(subscripts, x, y)``; a product of bfloat16 is summed in float32 and rounded once.

    Args:
      subscripts: of two operands.
      x, y: the operands.

    Returns:
      The product in the type that both have together.
    """
    if not hardware.widens_products(x.dtype, y.dtype):
        return jnp.einsum(subscripts, x, y)
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32).astype(x.dtype)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return ``x Wᵀ``, whose derivatives are ``product``s too.

    Args:
      x: ``[..., k]``.
      kernel: W, ``[d, k]``.

    Returns:
      ``[..., d]``.
    """
    if not hardware.widens_products(x.dtype, kernel.dtype):
        return jnp.einsum("...k,dk->...d", x, kernel)
    return _linear(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _linear(x, kernel):
    return product("nk,dk->nd", x, kernel)


def _forward(x, kernel):
    return _linear(x, kernel), (x, kernel)


def _backward(saved, d_y):
    x, kernel = saved
    return product("nd,dk->nk", d_y, kernel), product("nd,nk->dk", d_y, x)


_linear.defvjp(_forward, _backward)
