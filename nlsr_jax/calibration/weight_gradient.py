"""The gradient of the loss on safe answers by the matrices of the model itself.

Axis legend: B batch, T positions, L layers, k in-features, d out-features.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.architecture.config import EXPERT_PROJECTIONS
from nlsr_jax.calibration.capture import check_response, mean_of, row_losses
from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama
from nlsr_jax.modules import module_order
from nlsr_jax.types import Params

_EXPERTS = "experts"


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

    def checked():
        for batch in batches:
            if len(batch) != 2:
                raise InputError(f"the gradient of the loss takes batches of 2 arrays, found {len(batch)}")
            check_response(model, *batch)
            yield tuple(batch)

    zeros = jax.tree.map(lambda kernel: jnp.zeros(kernel.shape, jnp.float32), _kernels(params))
    found = dict(mean_of(over_batches(_measure, model, params, None, checked()), zeros))
    stacked = {own: np.asarray(leaf) for own, leaf in found.pop(_EXPERTS, {}).items()}
    for module, ((own, expert), _) in model.config.expert_modules().items():
        found[module] = stacked[own][:, expert]
    return found


def layer_by_layer(gradient: Mapping[str, Any]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield ``(module, layer, [d, k])`` of a gradient in memory, layer by layer.

    Args:
      gradient: from ``collect_weight_gradient``.
    """
    host = {module: np.asarray(gradient[module]) for module in sorted(gradient, key=module_order)}
    for layer in range(len(next(iter(host.values())))):
        for module, leaf in host.items():
            yield module, layer, leaf[layer]


def _kernels(params) -> dict[str, Any]:
    """``{module: [L, d, k]}``, and under ``_EXPERTS`` ``{own name: [L, E, d, k]}`` where there are experts."""
    layers = params["layers"]
    found = {module: leaf["kernel"] for module, leaf in layers.items() if "kernel" in leaf}
    if _EXPERTS in layers:
        found[_EXPERTS] = {own: layers[_EXPERTS][own] for own in EXPERT_PROJECTIONS}
    return found


def _with_kernels(params, kernels):
    """``params`` with other kernels; see ``_kernels``."""
    given = {m: leaf if m == _EXPERTS else {"kernel": leaf} for m, leaf in kernels.items()}
    layers = {m: {**leaf, **given.get(m, {})} for m, leaf in params["layers"].items()}
    return {**params, "layers": layers}


def _measure(model: Llama, params, given, batch):
    """Gradient of the sum of the rows' losses, and how many rows count."""
    if model.layout is not None:  # a derivative through the gathering of a layer would sum over the devices
        params = {**params, "layers": model.layout.gather_layers(params["layers"])}
        model = model.clone(layout=None)

    def loss(kernels):
        means, counts = row_losses(model, _with_kernels(params, kernels), None, *batch)
        return jnp.sum(means), jnp.sum(counts, dtype=jnp.float32)

    gradient, count = jax.grad(loss, has_aux=True)(_kernels(params))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient), count
