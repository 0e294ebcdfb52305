"""Synthetic realignment records, as plausible as they need to be for looking at the page."""

import numpy as np

from nlsr_jax.adapter import MODULES

WIDTHS = {
    "q_proj": (4096, 4096), "k_proj": (4096, 1024), "v_proj": (4096, 1024), "o_proj": (4096, 4096),
    "gate_proj": (4096, 14336), "up_proj": (4096, 14336), "down_proj": (14336, 4096),
}  # fmt: skip


def make_record(layers: int = 32, names=MODULES, seed: int = 0) -> dict:
    """Return a record of the rule ``probability`` with ``layers`` × ``names`` modules."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, layers)[:, None]
    kind = rng.normal(0, 0.08, len(names))
    similarity = np.clip(0.95 - 0.5 * np.exp(-(((depth - 0.45) / 0.25) ** 2)) + kind, -1, 1)
    similarity = np.clip(similarity + rng.normal(0, 0.06, (layers, len(names))), -1, 1).ravel()
    rank = np.empty(similarity.size)
    rank[np.argsort(similarity, kind="stable")] = np.arange(1, similarity.size + 1)
    probability = np.clip(0.5 + 0.4 * rank / similarity.size, 0, 1)
    pruned = rng.random(similarity.size) < probability
    modules = []
    for i in range(similarity.size):
        name = names[i % len(names)]
        inside, outside = WIDTHS[name]
        entry = {"layer": i // len(names), "module": name, "similarity": float(similarity[i])}
        entry |= {"probability": float(probability[i]), "pruned": bool(pruned[i]), "zero_norm": False}
        entry |= {"lineage": float(0.995 - 0.02 * rng.random())}
        entry |= {"kept_a": round(0.2 * 128 * inside), "size_a": 128 * inside}
        entry |= {"kept_b": round(0.2 * 128 * outside), "size_b": 128 * outside}
        modules.append(entry)
    return {
        "format": "nlsr_jax.realignment",
        "format_version": 1,
        "settings": {
            "base": "models/llama-3-8b", "aligned": "adapters/dpo", "finetuned": "adapters/sst2-p05",
            "weak": None, "calibration": "calibration.jsonl", "masks": None, "seed": 7, "beta": 0.9,
            "amplification_space": "factors", "rank": None, "sparsity": 0.8, "method": "low_rank",
            "granularity": "tensor", "base_probability": 0.5, "increment": 0.4, "rule": "probability",
            "tau": None, "share": None, "layers": None, "space": "factors", "batch_size": 16,
            "max_length": 512, "template": "alpaca", "dtype": "bfloat16", "allow_unrelated": False,
        },
        "key": {
            "seed": 7, "implementation": "threefry2x32", "data": [0, 7],
            "pruning": {"implementation": "threefry2x32", "data": [1842515611, 2679016530]},
        },
        "inputs": {
            "base": {"path": "models/llama-3-8b", "files": {"config.json": "5a" * 32}},
            "aligned": {"path": "adapters/dpo", "files": {"adapter_model.safetensors": "c3" * 32}},
            "finetuned": {"path": "adapters/sst2-p05", "files": {"adapter_model.safetensors": "7e" * 32}},
            "weak": None,
            "calibration": {"path": "calibration.jsonl", "files": {"calibration.jsonl": "09" * 32}},
            "masks": None,
        },
        "outputs": {"adapter_config.json": "ab" * 32, "adapter_model.safetensors": "f1" * 32},
        "identification": {"method": "low_rank"},
        "calibration": {
            "rows": 2000, "used": 1993, "skipped_long_prompt": 7, "cut_responses": 31,
            "response_positions": 181204,
        },
        "modules": modules,
        "summary": summarise(modules),
        "warnings": ["finetuned: 2 factors are zero throughout: layer 0 q_proj.b, layer 0 k_proj.b"],
        "versions": {"python": "3.11.9", "nlsr_jax": "0.1.0", "jax": "0.10.2", "flax": "0.12.0"},
        "device": {"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3", "count": 1},
        "seconds": {"read adapters": 2.104, "calibrate": 78.42, "identify": 3.77, "write": 1.9},
    }  # fmt: skip


def summarise(modules: list[dict]) -> dict:
    """Return the summary that belongs to the modules."""
    repaired = [m for m in modules if not m["pruned"]]
    return {
        "modules": len(modules),
        "repaired": len(repaired),
        "left_alone": len(modules) - len(repaired),
        "mean_similarity": float(np.mean([m["similarity"] for m in modules])),
        "changed_entries": sum(m["kept_a"] + m["kept_b"] for m in repaired),
        "total_entries": sum(m["size_a"] + m["size_b"] for m in modules),
    }
