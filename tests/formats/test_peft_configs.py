"""Real adapter configs: loaded to what PEFT computes, or refused for the right reason."""

import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_config import parse_adapter_config
from nlsr_jax.formats.peft_targets import select_targets
from tests.parity.peers import make_peer

LAYERS = 3
GOOD = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}


def ours(config):
    """``{(layer, module): (rank, scaling)}`` or the refusal."""
    try:
        targets = select_targets(parse_adapter_config(config, "adapter_config.json"), LAYERS, "adapter_config.json")
    except InputError as error:
        return str(error)
    return {(i, m): tuple(t) for m, layers in targets.modules.items() for i, t in layers.items()}


def theirs(config):
    """The same from PEFT, on a tiny Llama without memory for weights; None where PEFT cannot."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            parsed = LoraConfig.from_peft_type(**config)
            parsed.init_lora_weights = True
            peer = get_peft_model(META, parsed)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        found = {}
        for name, layer in peer.named_modules():
            if hasattr(layer, "lora_A"):
                parts = name.split(".")
                found[int(parts[parts.index("layers") + 1]), parts[-1]] = (
                    layer.r["default"],
                    layer.scaling["default"],
                )
        peer.unload()
    return found


with torch.device("meta"):
    META = make_peer("llama2")


def reasons(config):
    """Which words a refusal may hold, worked out from the file by the rules of the documentation."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return ["peft_type"]
    found = []
    if config.get("task_type") not in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
        found.append("task_type")
    if config.get("auto_mapping"):
        found.append("auto_mapping")
    if str(config.get("init_lora_weights")).startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        found.append("init_lora_weights")
    known = set(GOOD) | {"inference_mode", "lora_dropout", "megatron_core", "revision", "task_type", "auto_mapping"}
    known |= {"base_model_name_or_path", "peft_version", "qalora_group_size", "init_lora_weights", "bias"}
    found += [name for name, value in config.items() if value and name not in known]
    names = config.get("target_modules") or []
    if isinstance(names, list) and not {n.split(".")[-1] for n in names} & set(OUR_MODULES):
        found.append("target_modules")
    return found


OUR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_every_real_config(shared_data):
    files = sorted(p for p in (shared_data / "adapter_configs").glob("*.json") if p.name != "index.json")
    assert len(files) == 54
    loaded = refused = 0
    for path in files:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        found = ours(config)
        if isinstance(found, str):
            refused += 1
            allowed = reasons(config)
            assert any(word in found for word in allowed), f"{path.name}: {found} (allowed: {allowed})"
        else:
            loaded += 1
            assert found == theirs(config), path.name
    assert loaded >= 25
    assert refused >= 10


PATTERNS = st.sampled_from(
    ["q_proj", "v_proj", "up_proj", r"layers\.1\.self_attn\.q_proj", "self_attn.v_proj", r".*\.0\..*_proj", "mlp"]
)
CONFIGS = st.fixed_dictionaries(
    {
        "peft_type": st.just("LORA"),
        "r": st.integers(1, 64),
        "lora_alpha": st.one_of(st.integers(1, 128), st.floats(0.1, 64)),
        "use_rslora": st.booleans(),
        "target_modules": st.one_of(
            st.lists(st.sampled_from([*OUR_MODULES, "out_proj", "self_attn.k_proj"]), min_size=1, max_size=5),
            st.sampled_from(["all-linear", r".*\.(q|v)_proj", r"model\.layers\.[02]\.mlp\..*_proj", "nothing"]),
        ),
        "rank_pattern": st.dictionaries(PATTERNS, st.integers(1, 32), max_size=3),
        "alpha_pattern": st.dictionaries(PATTERNS, st.integers(1, 32), max_size=3),
        "exclude_modules": st.one_of(st.none(), st.lists(st.sampled_from(OUR_MODULES), max_size=2)),
    }
)
LISTED = st.fixed_dictionaries(
    {
        "layers_to_transform": st.one_of(st.none(), st.integers(0, 2), st.lists(st.integers(0, 2), max_size=3)),
        "layers_pattern": st.sampled_from([None, "layers", ["h", "layers"]]),
    }
)


@settings(max_examples=60, deadline=None)
@given(CONFIGS, LISTED)
def test_random_configs_agree_with_peft(config, layers):
    config = {**config, **(layers if isinstance(config["target_modules"], list) else {})}
    if config.get("layers_to_transform") is None:
        config.pop("layers_pattern", None)
    found, expected = ours(config), theirs(config)
    if isinstance(found, str):
        assert not expected, found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"peft_type": "SOMETHING_NEW"}, "only LORA adapters"),
        ({"use_dora": True}, "use_dora is True: DoRA"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base weights"),
        ({"init_lora_weights": "new_kind"}, "init_lora_weights is 'new_kind'"),
        ({"some_new_option": 3}, "unknown field 'some_new_option' is 3"),
        ({"r": 0}, "r is 0"),
        ({"r": -4}, "r is -4"),
        ({"r": True}, "r is True"),
        ({"r": "8"}, "r is '8'"),
        ({"r": 10**12}, "r is 1000000000000"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"rank_pattern": [1]}, "rank_pattern is [1]"),
        ({"target_modules": ["query_key_value"]}, "matches no projection"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapts lm_head"),
        ({"target_modules": ["embed_tokens"]}, "adapts model.embed_tokens"),
        ({"target_modules": ["self_attn"]}, "adapts model.layers.0.self_attn"),
        ({"target_modules": "(unclosed"}, "not a regular expression"),
        ({"target_modules": r"(?:(\w)|(\w)|(\.))+(?!\3)[#%]"}, "takes more than 1 s"),
        ({"target_modules": 7}, "target_modules is 7"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "cannot go with"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform is ['0']"),
        ({"layers_pattern": "layers"}, "layers_pattern is given without"),
        ({"auto_mapping": {"base_model_class": "OPTForCausalLM"}}, "OPTForCausalLM"),
    ],
)
def test_what_cannot_be_represented_is_refused_with_the_reason(change, message):
    found = ours({**GOOD, **change})
    assert isinstance(found, str), found
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": None, "other": False, "more": [], "zero": 0, "text": ""},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"loftq_config": {"loftq_bits": 4}},
        {"task_type": None},
        {"auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "x"}},
        {"target_modules": ["q_proj", "v_proj", "out_proj"]},
    ],
)
def test_what_changes_nothing_is_accepted(change):
    assert ours({**GOOD, **change}) == {(i, m): (8, 2.0) for i in range(LAYERS) for m in ("q_proj", "v_proj")}
