"""Whether an adapter fits a model of its own or of another family."""

import pytest

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.errors import InputError
from tests.oracles import random_adapter

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 2,
}
PHI3, EXPERT, ROUTER = "gate_up_proj", "block_sparse_moe.experts.1.w2", "block_sparse_moe.gate"


def check(family, **sizes):
    config = {**SMALL, "model_type": family}
    if family != "mixtral":
        del config["num_local_experts"]
    adapter = random_adapter(0, layers=2, rank=2, sizes=sizes)
    check_adapter_fits(adapter, parse_model_config(config, "config.json"))


@pytest.mark.parametrize(
    ("family", "module", "size"),
    [
        ("phi3", PHI3, (32, 96)),
        ("phi3", "qkv_proj", (32, 64)),
        ("mixtral", EXPERT, (48, 32)),
        ("mixtral", "q_proj", (32, 32)),
        ("olmo2", "down_proj", (48, 32)),
    ],
)
def test_modules_of_the_family_fit(family, module, size):
    check(family, **{module: size})


@pytest.mark.parametrize(
    ("family", "module", "size", "message"),
    [
        (
            "phi3",
            "q_proj",
            (32, 32),
            "has no module q_proj in its Flax model, whose layers have qkv_proj,",
        ),
        ("llama", PHI3, (32, 96), "no module gate_up_proj in its Flax model, whose layers have q_proj, k_proj"),
        ("mixtral", "up_proj", (32, 48), "no module up_proj in its Flax model, whose layers have q_proj"),
        (
            "mixtral",
            ROUTER,
            (32, 2),
            "gate is the router, whose choice of experts stays the base's",
        ),
        ("mixtral", "block_sparse_moe.experts.2.w2", (48, 32), "no module block_sparse_moe.experts.2.w2"),
        ("mixtral", EXPERT, (32, 48), "maps 32 features to 48, the model's maps 48 to 32"),
    ],
)
def test_others_are_refused_with_the_reason(family, module, size, message):
    with pytest.raises(InputError) as caught:
        check(family, **{module: size})
    assert message in str(caught.value)
