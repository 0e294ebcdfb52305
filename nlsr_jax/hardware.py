"""What this machine does better: the one place in which the platform decides between two ways to one result.

The other files hold plain code that is right on every platform, and ask here whether to take a faster way. Every
question is a pure function of ``platform()`` and of its arguments. It is asked while a program is traced, so it
costs no time in a compiled program. To take the other way, replace ``platform`` or one of the questions:
``monkeypatch.setattr(hardware, "platform", lambda: "tpu")``. A compiled program keeps the answer that it was traced
with; ``jax.clear_caches()`` drops it.
"""

from typing import Any

import jax
import jax.numpy as jnp

FUSED_ATTENTION = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}
"""The fused attention kernel of a platform; see ``nlsr_jax.models.fused_attention``."""
EXACT = {"xla_allow_excess_precision": False}
"""Compiler options with which narrow types are rounded wherever a program says so.

Otherwise XLA leaves out a rounding where it fuses two operations, so that in bfloat16 and float16 the results
depend on how a computation is cut into programs. Of float32 nothing changes.
"""
NARROW = EXACT | {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
"""Compiler options of passes over layers of a narrow type on the CPU.

XLA cuts a layer's weights out of their stack in float32 there. It would convert the weights of all layers ahead
of the loop over the layers, and hold them in memory a second time, in twice their bytes. With these options it
converts a layer when its turn comes.
"""
_WIDTH = jnp.dtype(jnp.float32).itemsize
_LARGE_RANK = 64
_PIECE = 1024


def platform() -> str:
    """Return the platform that JAX computes on: ``cpu``, ``gpu`` or ``tpu``."""
    return jax.default_backend()


def factorises_one_by_one() -> bool:
    """Say whether matrix factorisations (QR, SVD, Cholesky, solve) run layer by layer, not in batches.

    On the CPU, XLA spreads a batch of factorisations over its thread pool and waits for them on a thread of that
    pool: as many batches at once as there are threads wait for ever.
    """
    return platform() == "cpu"


def branches(rank: int) -> bool:
    """Say whether to ask at run time if r × r matrices are so well-conditioned that less work will do.

    Below rank 64 the work is small, and results are published to the byte. Accelerators compute layers in batches,
    and of a batch both branches.

    Args:
      rank: r.
    """
    return rank >= _LARGE_RANK and platform() == "cpu"


def converts_layers(dtype: Any) -> bool:
    """Say whether layers of a type are converted when they are cut out of a stack, so that a pass takes ``NARROW``.

    Args:
      dtype: of the weights.
    """
    return platform() == "cpu" and jnp.dtype(dtype).itemsize < _WIDTH


def widens_products(*dtypes: Any) -> bool:
    """Say whether products of these types are best asked for in float32 and rounded afterwards.

    On the CPU, XLA has kernels for bfloat16 whose results are float32. For other results it converts the operands.

    Args:
      *dtypes: of the operands.
    """
    return platform() == "cpu" and all(jnp.dtype(dtype) == jnp.bfloat16 for dtype in dtypes)


def piece(size: int) -> int:
    """Return how many rows or columns of a factor to multiply at a time: all of them on accelerators.

    On the CPU 1024 of them stay in a core's own cache from their masking to their last product.

    Args:
      size: how many there are.
    """
    return _PIECE if platform() == "cpu" and size >= 2 * _PIECE else size


def selects_on_host(tree: Any) -> bool:
    """Say whether NumPy should select the largest scores: they lie in the memory of one CPU device.

    NumPy's partition is several times faster there than XLA's passes over all scores. Values that are traced, or
    that are spread over several devices, are left to XLA.

    Args:
      tree: arrays that the scores are, or are computed from.
    """

    def is_here(leaf):
        if isinstance(leaf, jax.core.Tracer):
            return False
        return not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1

    return platform() == "cpu" and all(map(is_here, jax.tree.leaves(tree)))


def shares_passes() -> bool:
    """Say whether adapters that go through the base at the same time should do so in one pass.

    On accelerators one large product costs less than many small ones. A CPU core is busy with one adapter: there a
    gradient at eight adapters takes a third longer than eight gradients.
    """
    return platform() != "cpu"


def attention_kernel() -> str | None:
    """Return the fused attention kernel of this platform, None where there is none."""
    return FUSED_ATTENTION.get(platform())
