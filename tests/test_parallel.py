"""Weights laid out over eight virtual devices, and over two processes: the same results as on one device."""

import concurrent.futures
import json

import pytest

from nlsr_jax.errors import InputError
from tests.e2e.command import free_port, python
from tests.parity.peers import save_peer

pytestmark = pytest.mark.slow
PROGRAM = """
import json, sys, jax, numpy as np, nlsr_jax
from nlsr_jax.calibration.openings import collect_openings, find_openings
from nlsr_jax.parallel import make_mesh
folder, shape = sys.argv[1], tuple(json.loads(sys.argv[2]))
mesh = make_mesh(shape)
one = nlsr_jax.load_model(folder)
eight = nlsr_jax.load_model(folder, mesh=mesh)
config, random = one[0].config, np.random.default_rng(0)
factors = {
    module: {
        "a": random.normal(size=(config.num_layers, 4, k), scale=0.1).astype(np.float32),
        "b": random.normal(size=(config.num_layers, d, 4), scale=0.1).astype(np.float32),
    }
    for module, (k, d) in config.projections().items()
}
adapter = nlsr_jax.Adapter(factors)
draw = lambda length: random.integers(3, config.vocab_size, (4, length)).astype(np.int32)
ids = draw(12)
batches = [(draw(length), random.random((4, length)) < 0.6) for length in (9, 9, 9, 12, 12)]
some = batches[:3]
half = [(*batch, *batch) for batch in some]


def same(function):
    pairs = zip(*(jax.tree.leaves(function(*which)) for which in (one, eight)), strict=True)
    return all(bool((np.asarray(a) == np.asarray(b)).all()) for a, b in pairs)


calls = {
    "weights": lambda model, params: params,
    "statistics": lambda m, p: nlsr_jax.collect_statistics(m, p, adapter, batches),
    "generated": lambda m, p: nlsr_jax.generate(m, p, ids, adapter=adapter, max_new_tokens=8),
    "gradient": lambda m, p: nlsr_jax.collect_loss_gradient(m, p, adapter, some),
    "snip": lambda m, p: nlsr_jax.collect_gradients(m, p, adapter, half, objective="preference_snip"),
    "openings": lambda m, p: collect_openings(
        m, p, adapter, some, find_openings(m, some, depth=2)),
}
logits = [np.asarray(nlsr_jax.logits(*which, ids, adapter=adapter)) for which in (one, eight)]
kernel = eight[1]["layers"]["up_proj"]["kernel"]
print(json.dumps({
    "close": bool(np.allclose(*logits, rtol=1e-5, atol=1e-5)),
    "shard": kernel.addressable_shards[0].data.size / kernel.size,
    **{name: same(calls[name]) for name in sys.argv[3].split(",")},
}))
"""
FAMILY = """
import json, sys, jax, numpy as np, nlsr_jax
from nlsr_jax.parallel import make_mesh
from tests.oracles import random_adapter
one, eight = (nlsr_jax.load_model(sys.argv[1], mesh=mesh) for mesh in (None, make_mesh((1, 2, 2))))
config = one[0].config
adapter = random_adapter(0, layers=config.num_layers, rank=2, sizes=config.projections())
adapter = jax.tree.map(lambda leaf: np.float32(0.1) * leaf, adapter)
ids = np.random.default_rng(0).integers(3, config.vocab_size, (4, 12)).astype(np.int32)
logits = [np.asarray(nlsr_jax.logits(*which, ids, adapter=adapter)) for which in (one, eight)]
close = bool(np.allclose(*logits, rtol=1e-4, atol=1e-4))
if sys.argv[2] == "logits":
    print(json.dumps({"close": close}))
    sys.exit()
made = [np.asarray(nlsr_jax.generate(*which, ids, adapter=adapter, max_new_tokens=6)) for which in (one, eight)]
batches = [(ids, ids > 20)]
gradients = [nlsr_jax.collect_loss_gradient(*which, adapter, batches) for which in (one, eight)]
pairs = zip(*map(jax.tree.leaves, gradients), strict=True)
print(json.dumps({
    "close": close,
    "generated": bool((made[0] == made[1]).all()),
    "gradient": all(np.allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(a).max()) for a, b in pairs),
}))
"""
LOADING = """
import json, resource, sys, jax, numpy as np
from nlsr_jax.models import load_model, logits
from nlsr_jax.parallel import join, make_mesh
folder, place, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
join(place, 2, process)
mesh = make_mesh((1, 2, 1))
jax.block_until_ready(jax.numpy.ones(8))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model, params = load_model(folder, mesh=mesh)
leaves = jax.tree.leaves(jax.block_until_ready(params))
held = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
whole = sum(leaf.nbytes for leaf in leaves)
grown = peak() - before
ids = np.arange(48, dtype=np.int32).reshape(4, 12) + 3
both = [np.asarray(logits(*which, ids)) for which in ((model, params), load_model(folder))]
same = bool(np.allclose(*both, rtol=1e-5, atol=1e-5))
print(json.dumps({"grown": grown, "held": held, "whole": whole, "same": same}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    save_peer("llama3", folder)
    return folder


def devices(count):
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def test_logits_of_joined_projections_over_a_mesh(tmp_path):
    save_peer("phi3", tmp_path)
    assert json.loads(python("-c", FAMILY, tmp_path, "logits", env=devices(4)).stdout) == {"close": True}


@pytest.mark.long
def test_experts_over_a_mesh(tmp_path):
    save_peer("qwen3_moe", tmp_path)
    result = json.loads(python("-c", FAMILY, tmp_path, "all", env=devices(4)).stdout)
    assert result == {"close": True, "generated": True, "gradient": True}


@pytest.mark.parametrize(
    ("shape", "share", "calls"),
    [
        ((1, 8, 1), 1 / 8, "weights,statistics,generated"),
        pytest.param((2, 2, 2), 1 / 4, "weights,openings,snip", marks=pytest.mark.long),
    ],
)
def test_the_same_results_whatever_the_mesh(base, shape, share, calls):
    result = json.loads(python("-c", PROGRAM, base, json.dumps(shape), calls, env=devices(8)).stdout)
    assert result.pop("shard") == share
    assert all(result.values()), result


def test_a_process_holds_its_own_shards_alone(tmp_path):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    place = free_port()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        started = [pool.submit(python, "-c", LOADING, tmp_path, place, i, env=devices(1)) for i in range(2)]
        ended = [one.result() for one in started]
    for process in ended:
        found = json.loads(process.stdout.strip().splitlines()[-1])
        tensor = 4 * 4096 * 512
        assert found["held"] < 0.51 * found["whole"]
        assert found["whole"] > 250e6
        assert found["same"]
        assert found["grown"] < 1.2 * found["held"] + tensor


def test_wrong_mesh_is_named():
    from nlsr_jax.parallel import make_mesh

    with pytest.raises(InputError, match=r"mesh \(3, 5, 7\) needs 105 devices"):
        make_mesh((3, 5, 7))


def test_a_process_beyond_the_others_is_named():
    from nlsr_jax.parallel import join

    with pytest.raises(InputError, match="process is 2 of 2"):
        join("127.0.0.1:1", 2, 2)
