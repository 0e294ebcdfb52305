"""A base of a narrow type on the CPU: a pass converts a layer's weights when its turn comes, not all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax import hardware
from nlsr_jax.calibration import spread
from nlsr_jax.calibration.loss import _measure_loss_gradient
from nlsr_jax.models.load import load_model
from nlsr_jax.models.shared_prefix import Rows
from tests.calibration.test_streamed import make, make_adapter

WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}


@pytest.mark.skipif(hardware.platform() != "cpu", reason="accelerators multiply narrow types")
def test_the_weights_of_all_layers_are_not_in_memory_in_float32(tmp_path):
    folder, config = make(tmp_path / "base", "llama", **WIDE)
    model, params = load_model(folder, jnp.bfloat16)
    adapter, rows = make_adapter(config), Rows(np.ones((1, 16), np.int32), None, np.ones((1, 16), bool))

    def needed(program):
        lowered = program.lower(params, adapter, rows, measure=_measure_loss_gradient, model=model, static=())
        return lowered.compile().memory_analysis().temp_size_in_bytes

    converted = sum(4 * leaf.size for leaf in jax.tree.leaves(params["layers"]))
    assert needed(spread._alone) > converted
    assert needed(spread._alone_narrow) < converted / 2


@pytest.mark.parametrize(
    ("platform", "dtype", "converts"),
    [
        ("cpu", "bfloat16", True),
        ("cpu", "float16", True),
        ("cpu", "float32", False),
        ("gpu", "bfloat16", False),
    ],
)
def test_only_narrow_types_on_the_cpu_are_converted(platform, dtype, converts, monkeypatch):
    monkeypatch.setattr(hardware, "platform", lambda: platform)
    assert hardware.converts_layers(dtype) is converts
