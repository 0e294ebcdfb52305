"""The gradient of the loss on safe answers by the matrices of the model itself.

Axis legend: B batch, T positions, L layers, k in-features, d out-features.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.calibration.kernels import by_module, kernels_of, with_kernels
from nlsr_jax.calibration.loss import answered_rows, sum_losses
from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.calibration.streamed_passes import stream_weight_gradients
from nlsr_jax.calibration.summing import mean_of
from nlsr_jax.models.llama import Llama, hidden_states
from nlsr_jax.models.shared_prefix import Rows
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.modules import module_order
from nlsr_jax.types import Params


def collect_weight_gradient(model: Llama, params: Params, batches: Iterable) -> dict[str, Any]:
    """Average ∂L/∂W over examples, with its sign, for the score ``gain`` of full weights.

    The gradients of all matrices are in memory at once. Over a mesh, every device gathers the whole model for its
    batches.

    Args:
      model, params: from ``load_model``.
      batches: of ``(tokens, response_mask)``, each ``[B, T]``, padded on the right.

    Returns:
      ``{module: [L, d, k]}`` float32, of all projections and of those of single experts: the mean over examples of
      the gradient of the mean negative log-likelihood of an example's response tokens. Rows without a response do
      not count.

    Raises:
      InputError: a batch that does not fit.
    """
    zeros = jax.tree.map(lambda kernel: jnp.zeros(kernel.shape, jnp.float32), kernels_of(params["layers"]))
    found = mean_of(over_batches(_measure, model, params, None, answered_rows(model, batches)), zeros)
    return by_module(model.config, jax.tree.map(np.asarray, found), axis=1)


def stream_weight_gradient(
    model: Llama, params: StreamedParams, batches: Iterable
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield ``(module, layer, [d, k])`` of ``collect_weight_gradient``, the last layer first.

    The gradients of one layer are in memory at a time.

    Args:
      model, params: from ``stream_model``.
      batches: see ``collect_weight_gradient``.

    Raises:
      InputError: a batch that does not fit.
    """
    for layer, found in stream_weight_gradients(sum_losses, model, params, answered_rows(model, batches)):
        named = by_module(model.config, jax.tree.map(np.asarray, found), axis=0)
        for module in sorted(named, key=module_order):
            yield module, layer, named.pop(module)


def layer_by_layer(gradient: Mapping[str, Any]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield ``(module, layer, [d, k])`` of a gradient in memory, layer by layer.

    Args:
      gradient: from ``collect_weight_gradient``.
    """
    host = {module: np.asarray(gradient[module]) for module in sorted(gradient, key=module_order)}
    for layer in range(len(next(iter(host.values())))):
        for module, leaf in host.items():
            yield module, layer, leaf[layer]


def _measure(model: Llama, params, given, batch: Rows):
    """Gradient of the sum of the rows' losses, and how many rows count."""
    if model.layout is not None:  # a derivative through the gathering of a layer would sum over the devices
        params = {**params, "layers": model.layout.gather_layers(params["layers"])}
        model = model.clone(layout=None)

    def loss(kernels):
        changed = {**params, "layers": with_kernels(params["layers"], kernels)}
        states = [hidden_states(model, changed, None, batch.tokens, batch.prefix)]
        return sum_losses(model, params, states, None, batch)

    gradient, count = jax.grad(loss, has_aux=True)(kernels_of(params["layers"]))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient), count
