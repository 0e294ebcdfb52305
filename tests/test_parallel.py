"""Weights laid out over eight virtual devices: the same logits, masks and statistics as on one."""

import json
import os
import subprocess
import sys

import pytest

from tests.parity.peers import save_peer

PROGRAM = """
import json, sys, jax, numpy as np, nlsr_jax
from nlsr_jax.parallel import make_mesh
folder, shape = sys.argv[1], tuple(json.loads(sys.argv[2]))
mesh = make_mesh(shape)
model, params = nlsr_jax.load_model(folder)
_, sharded = nlsr_jax.load_model(folder, mesh=mesh)
ids = np.arange(24, dtype=np.int32).reshape(2, 12) + 3
one, eight = (np.asarray(nlsr_jax.logits(model, p, ids)) for p in (params, sharded))
kernel = sharded["layers"]["up_proj"]["kernel"]
shard = kernel.addressable_shards[0].data.size / kernel.size
pairs = zip(jax.tree.leaves(params), jax.tree.leaves(sharded), strict=True)
same = all(bool((np.asarray(a) == np.asarray(b)).all()) for a, b in pairs)
print(json.dumps({"difference": float(np.abs(one - eight).max()), "shard": shard, "same": same}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    save_peer("llama3", folder)
    return folder


@pytest.mark.parametrize(("shape", "share"), [((8, 1, 1), 1.0), ((1, 8, 1), 1 / 8), ((2, 2, 2), 1 / 4)])
def test_sharded_weights_give_the_same_logits(base, shape, share):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", PROGRAM, str(base), json.dumps(shape)]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["same"]
    assert result["shard"] == share
    # Partial sums in float32 in another order.
    assert result["difference"] < 1e-5 * 50


def test_wrong_mesh_is_named():
    from nlsr_jax.errors import InputError
    from nlsr_jax.parallel import make_mesh

    with pytest.raises(InputError, match=r"mesh \(3, 5, 7\) needs 105 devices"):
        make_mesh((3, 5, 7))
