"""The toy case of full weights: what is transplanted, and that it is what the command transplants."""

import dataclasses

import jax
import numpy as np
import pytest

from nlsr_jax.configs.tiny import SHIPPED, get_config
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.study.case import Case
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.study.weights_case import open_case, repaired
from nlsr_jax.study.workshop import merged


@pytest.fixture(scope="module")
def case():
    world, config = ToyWorld(), get_config()
    stage = dataclasses.replace(config.finetuning, rows=24)
    stage = dataclasses.replace(stage, training=dataclasses.replace(stage.training, epochs=1))
    config = dataclasses.replace(config, finetuning=stage, calibration_rows=20)
    base = load_base(SHIPPED / "base", world)
    return open_case(base, merged(base, load_adapter(SHIPPED / "dpo")), world, config, Case("sst2", 0.05, 102))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_share_is_transplanted(case, beta):
    found = repaired(case, beta, 0.02)
    changed = total = 0
    for module in case.gradient:
        before, now, base, start = (
            np.asarray(one.params["layers"][module]["kernel"])
            for one in (case.finetuned, found, case.instruct, case.pretrained)
        )
        moved = before != now
        reference = base + np.float32(beta) * (base - start)
        np.testing.assert_allclose(now[moved], reference[moved], rtol=1e-6)
        changed, total = changed + np.count_nonzero(moved), total + moved.size
    assert changed == round(0.02 * total)
    assert np.array_equal(found.params["embed"], case.finetuned.params["embed"])


def test_training_moves_all_weights(case):
    pairs = zip(jax.tree.leaves(case.instruct.params), jax.tree.leaves(case.finetuned.params), strict=True)
    assert all(np.any(np.asarray(one) != np.asarray(two)) for one, two in pairs)
