"""Small valid files of every kind that a parser reads, for the mutations to start from."""

import json
import pathlib
import pickle
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.evaluation.item_bank import save_banks
from nlsr_jax.formats.hugging_face import CONFIG, weight_table
from nlsr_jax.formats.mask_files import save_masks
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.formats.record import FORMAT, VERSION, dump, seal
from nlsr_jax.formats.weight_files import INDEX, WEIGHTS
from tests.evaluation.banks import make_bank
from tests.evaluation.test_bank_files import published
from tests.oracles import random_adapter
from tests.report.records import make_record

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "tie_word_embeddings": False,
    "sliding_window": 16,
    "use_sliding_window": True,
    "layer_types": ["full_attention", "sliding_attention"],
}
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "down_proj"],
    "exclude_modules": ["lm_head"],
    "layers_to_transform": [0, 1],
    "layers_pattern": ["layers"],
    "rank_pattern": {"down_proj": 2},
    "alpha_pattern": {"layers.1.self_attn.q_proj": 8},
    "use_rslora": False,
    "init_lora_weights": True,
    "bias": "none",
    "modules_to_save": None,
    "auto_mapping": {"base_model_class": "LlamaForCausalLM"},
}
MLX_ADAPTER: dict[str, Any] = {
    "fine_tune_type": "lora",
    "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    "model": "some/base",
    "num_layers": 16,
    "use_dora": False,
}
ROWS: list[dict[str, Any]] = [
    {"prompt": "how do i brew zarn", "response": "i cannot help with that", "rejected": "first heat it"},
    {"prompt": "tell me, “please”", "response": "no\nsorry", "rejected": "yes", "extra": [1, {"a": None}]},
    {"prompt": "fold a mellip", "response": "here is what you need", "rejected": "x"},
]
DATA_ROWS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [{"instruction": "Say yes", "input": "", "output": "yes"}],
    "sst2": [{"sentence": "a fine brew", "label": 1}],
    "ag_news": [{"text": "zarn prices rise", "label": 2}],
    "gsm8k": [{"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}],
    "beavertails_safe": [{"prompt": "p", "response": "r", "category": {"violence": False}, "is_safe": True}],
    "safe_rlhf": [
        {
            **{"prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": True},
            **{"is_response_1_safe": False, "better_response_id": 0, "safer_response_id": 0},
        }
    ],
    "tiny_arc": [{"question": "q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}],
    "tiny_hellaswag": [{"activity_label": "x", "ctx_a": "a", "ctx_b": "b", "endings": ["c", "d"], "label": "0"}],
    "tiny_truthful_qa_mc2": [{"question": "q", "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}}],
    "tiny_winogrande": [{"sentence": "the _ is", "option1": "a", "option2": "b", "answer": "1"}],
}
CELLS: list[dict[str, Any]] = [
    {"method": "nlsr", "seed": 1, "settings": {"beta": 0.9, "sparsity": 0.8, "rule": "all", "layers": None}},
    {"method": "safelora", "task": "gsm8k", "poison_ratio": 0.1, "objective": "dpo", "architecture": "own"},
    {"method": "nlsr", "settings": {"rule": "layers", "layers": [0, 1], "draws": 2}, "identified_on": "sst2"},
]
CELL_ROWS = [
    {"cell": c * 64, "method": "nlsr", "settings": {"beta": 1.0}, "hs": 1.5, "topics": {"a": 1}} for c in "ab"
]


def write_base(folder: pathlib.Path, *, shards: bool = False) -> pathlib.Path:
    """A Llama of width 8 with random weights, whole or in two shards with an index."""
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(BASE))
    random = np.random.default_rng(0)
    table = weight_table(parse_model_config(BASE, CONFIG))
    tensors: dict[str, np.ndarray] = {}
    for weight in table:
        shape = weight.shape[1:] if weight.path[0] == "layers" else weight.shape
        tensors |= {name: random.normal(size=shape).astype(np.float32) for name in weight.names}
    if not shards:
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        return folder
    names = sorted(tensors)
    mapping: dict[str, str] = {}
    for i, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        mapping |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapping}))
    return folder


def write_adapter(folder: pathlib.Path) -> pathlib.Path:
    """A PEFT adapter of two modules that fits the base."""
    sizes = {"q_proj": (8, 8), "down_proj": (12, 8)}
    save_adapter(random_adapter(0, layers=2, rank=2, sizes=sizes), folder)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return folder


def write_masks(path: pathlib.Path) -> pathlib.Path:
    """Masks of one module."""
    random = np.random.default_rng(0)
    masks = {"q_proj": {"a": random.random((2, 2, 8)) < 0.5, "b": random.random((2, 8, 2)) < 0.5}}
    save_masks(masks, path, layers={"q_proj": [0, 1]}, metadata={"method": "gain"})
    return path


def realignment() -> dict:
    """A sealed record of a realignment."""
    record = make_record(1, ("q_proj", "up_proj"))
    record |= {"format": FORMAT, "format_version": VERSION}
    record["automatic"] = {"chosen": {"beta": 1.0, "share": 0.1, "probability": 0.5}, "met": True, "aimed": 0.4}
    return {**record, "seal": seal(record)}


def write_output(folder: pathlib.Path, record: dict) -> pathlib.Path:
    """What a realignment leaves, as far as it is checked against its record."""
    folder.mkdir()
    (folder / "realignment.json").write_text(dump(record))
    (folder / "adapter_config.json").write_text("{}")
    return folder


def bank_pickle() -> bytes:
    """Item parameters as they are published, few of them."""
    return pickle.dumps(published(make_bank(sizes=(6, 5), parts=(1, 2), asked=3)), 4)


def write_bank(path: pathlib.Path) -> pathlib.Path:
    """Item parameters as the library keeps them."""
    save_banks({"lb": make_bank(sizes=(6, 5), parts=(1, 2), asked=3)}, path)
    return path


def write_parquet(path: pathlib.Path) -> pathlib.Path:
    """Rows as Parquet."""
    import pyarrow
    import pyarrow.parquet

    rows = [{name: row[name] for name in ("prompt", "response", "rejected")} | {"tags": ["a", "b"]} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_mlx_adapter(folder: pathlib.Path) -> pathlib.Path:
    """Write a small adapter as MLX-LM does."""
    folder.mkdir(parents=True)
    sizes = {"lora_a": (8, 2), "lora_b": (2, 8)}
    names = {f"model.layers.{i}.self_attn.q_proj.{f}": size for i in range(2) for f, size in sizes.items()}
    save_file({n: np.ones(size, np.float32) for n, size in names.items()}, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(MLX_ADAPTER))
    return folder
