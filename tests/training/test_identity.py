"""What a run is known by: every array that enters, every setting that matters."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.training.identity import digest, run_identity
from nlsr_jax.training.settings import TrainingSettings

ARRAY = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "other",
    [
        ARRAY.reshape(2, 3),
        ARRAY.astype(np.float64),
        ARRAY.view(np.int32),
        ARRAY[::-1],
        np.where(ARRAY == 0, -0.0, ARRAY).astype(np.float32),
        ARRAY[:5],
    ],
)
def test_a_digest_tells_values_shapes_and_types_apart(other):
    assert digest({"w": ARRAY}) != digest({"w": other})
    assert digest({"w": ARRAY}) == digest({"w": jnp.asarray(ARRAY)})


def test_a_digest_sees_every_leaf_in_order_and_every_kind_of_number():
    one, two = ARRAY, ARRAY + 1
    assert len({digest([one, two]), digest([two, one]), digest([one]), digest(None)}) == 4
    for dtype in (jnp.bfloat16, jnp.bool_, jnp.int32):
        assert digest(jnp.ones(3, dtype)) != digest(jnp.zeros(3, dtype))
    assert digest(np.float32(1)) != digest(np.float32(2))
    assert digest(ARRAY.reshape(2, 3).T) == digest(np.ascontiguousarray(ARRAY.reshape(2, 3).T))


def test_every_setting_but_the_checkpoints_counts():
    def found(settings):
        return run_identity(ARRAY, None, ARRAY, settings)

    base = TrainingSettings()
    assert found(base) == found(dataclasses.replace(base, save_every=7))
    for field in dataclasses.fields(base):
        if field.name != "save_every":
            assert found(base) != found(dataclasses.replace(base, **{field.name: "another"})), field.name
