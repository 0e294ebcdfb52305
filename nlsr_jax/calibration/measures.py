"""What is measured from final hidden states, of a model in memory or one whose layers are streamed."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nlsr_jax.calibration.spread import over_batches
from nlsr_jax.calibration.streamed_passes import Finish, stream_values
from nlsr_jax.models.llama import Llama, hidden_states
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.types import Params


def measured(
    finish: Finish,
    model: Llama,
    params: Params | StreamedParams,
    loras: Sequence[Any],
    given: Any,
    batches: Iterable[tuple],
) -> Iterator[Any]:
    """Yield what ``finish`` makes of every batch, in their order.

    Args:
      finish: see ``Finish``.
      model, params: from ``load_model`` or ``stream_model``.
      loras: expanded adapters; None among them for the base alone.
      given: tree of arrays that all batches need.
      batches: trees of arrays, the tokens ``[B, T]`` first.
    """
    if isinstance(params, StreamedParams):
        return stream_values(finish, model, params, loras, given, batches)
    return over_batches(_measure, model, params, (tuple(loras), given), batches, finish)


def _measure(model, params, given, batch, finish):
    loras, given = given
    states = tuple(hidden_states(model, params, lora, batch[0]) for lora in loras)
    return finish(model, params, states, given, batch)
