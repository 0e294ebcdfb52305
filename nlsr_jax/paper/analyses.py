"""Data of the figures beside scores: similarities, masks and hidden states of a study's adapters."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import layer_indices
from nlsr_jax.data.encoding import encode_prompts
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.overlap import choice_agreement, kept_entries, mask_overlap
from nlsr_jax.evaluation.probes import probe
from nlsr_jax.files.output import whole_file, write_text
from nlsr_jax.files.ownership import nothing_foreign
from nlsr_jax.models.hidden_states import last_hidden_states
from nlsr_jax.modules import is_attention
from nlsr_jax.nlsr.pruning import flatten_modules, similarity_rank
from nlsr_jax.paper.tables import GAIN, MODELS
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import identification_rows, stage_key
from nlsr_jax.study.repairs import RepairSettings, calibration_batches, gather_evidence, make_masks
from nlsr_jax.study.reproduction import ask_skills
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.sweep.cells import make_cell
from nlsr_jax.sweep.runner import CellRunner

OBJECTIVES = ("dpo", "orpo", "kto", "simpo")
SPARSITIES = (0.3, 0.5, 0.7, 0.9)
TAUS = tuple(np.round(np.linspace(-0.2, 1.0, 49), 3).tolist())
METHODS = ("low_rank", "wanda", "snip", "preference_snip", "magnitude", "random", "gain")
PROBED = 200

Analysis = Callable[[CellRunner, Sequence[int]], dict[str, Any]]


def _repaired(runner: CellRunner, **fields):
    """Return the realignment of all modules with the given settings."""
    settings = {"rule": "all", "draws": 1, **fields.pop("settings", {})}
    (result,) = runner.realigned(make_cell("nlsr", settings, **fields))
    return result


def _by_layer(adapter, tree) -> np.ndarray:
    """Return the mean over modules of ``{module: [L]}``, one value per decoder layer."""
    layers = np.concatenate([layer_indices(adapter, m) for m in tree])
    values = np.concatenate([np.asarray(tree[m], np.float64) for m in tree])
    return np.array([values[layers == layer].mean() for layer in np.unique(layers)])


def similarities(runner: CellRunner, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the share of modules whose similarity is below each τ, and the mean similarity by layer.

    Returns:
      ``taus``; ``below``: by objective and sparsity the share for each τ; ``by_layer``: by sparsity the mean over
      the modules of a layer, for DPO.
    """
    below: dict[str, dict[str, list[float]]] = {}
    by_layer: dict[str, list[float]] = {}
    for objective in OBJECTIVES:
        below[objective] = {}
        for sparsity in SPARSITIES:
            found = [
                _repaired(runner, seed=seed, objective=objective, settings={"sparsity": sparsity}) for seed in seeds
            ]
            values = np.concatenate([np.asarray(flatten_modules(one.similarity)) for one in found])
            below[objective][str(sparsity)] = [float((values < tau).mean()) for tau in TAUS]
            if objective == "dpo":
                layers = [_by_layer(one.adapter, one.similarity) for one in found]
                by_layer[str(sparsity)] = np.mean(layers, axis=0).tolist()
    return {"taus": list(TAUS), "below": below, "by_layer": by_layer}


def identification(runner: CellRunner, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the agreement of identification methods at equal mask size.

    Returns:
      ``methods``; ``overlap [n, n]``: share of a row's kept entries that the column also keeps, ``overlap_chance``;
      ``agreement [n, n]``: share of modules that both methods or neither place in the least similar half,
      ``agreement_chance``; ``gained [n]``: first-order decrease of the loss on safe answers from transplanting a
      method's entries, as a share of the decrease from all entries that reduce it.
    """
    overlap, agreement, gained = [], [], []
    for seed in seeds:
        masks, damaged = {}, {}
        for method in METHODS:
            settings = {"method": method, "rule": "all", "draws": 1}
            cell = make_cell("nlsr", settings, seed=seed)
            masks[method] = runner.identified(cell)
            ranks = similarity_rank(runner.realigned(cell)[0].similarity)
            half = sum(len(values) for values in ranks.values()) // 2
            damaged[method] = {module: np.asarray(rank) <= half for module, rank in ranks.items()}
        overlap.append([[mask_overlap(masks[a], masks[b]) for b in METHODS] for a in METHODS])
        agreement.append([[choice_agreement(damaged[a], damaged[b]) for b in METHODS] for a in METHODS])
        gains = _gains(runner, seed)
        every = _sum(jax.tree.map(lambda gain: np.maximum(gain, 0), gains))
        gained.append([_sum(jax.tree.map(np.multiply, gains, _arrays(masks[m]))) / every for m in METHODS])
    size = sum(leaf.size for leaf in jax.tree.leaves(masks["random"]))
    return {
        "methods": list(METHODS),
        "overlap": np.mean(overlap, axis=0).tolist(),
        "overlap_chance": kept_entries(masks["random"]) / size,
        "agreement": np.mean(agreement, axis=0).tolist(),
        "agreement_chance": 0.5,
        "gained": np.mean(gained, axis=0).tolist(),
    }


def _gains(runner: CellRunner, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return each entry's first-order loss decrease on safe answers if transplanted, −∂L/∂W · (W_e − W_t)."""
    settings, cell = RepairSettings(), make_cell("finetuned", seed=seed)
    evidence = runner.evidence(runner.own, seed, "dpo", cell.case, "gain", settings)
    reference = runner.reference(runner.own, seed, "dpo", settings)
    finetuned = runner.tuned(runner.own, cell.case, "dpo")
    trees = (evidence.gradients, reference.factors, finetuned.factors)
    return jax.tree.map(lambda g, after, before: -g * (after - before), *map(_arrays, trees))


def _arrays(tree) -> dict[str, dict[str, np.ndarray]]:
    """Return a tree by module and factor in float64."""
    return {
        module: {name: np.asarray(leaf[name], np.float64) for name in ("a", "b")} for module, leaf in tree.items()
    }


def _sum(tree) -> float:
    return float(sum(leaf.sum() for leaf in jax.tree.leaves(tree)))


def depth(runner: CellRunner, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the share of kept entries in attention and feed-forward by layer, with one threshold per adapter.

    Returns:
      By method ``low_rank`` and ``gain``: ``attention`` and ``feed_forward``, one share per layer.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    sizes = {"low_rank": {"granularity": "adapter"}, "gain": dict(GAIN)}
    for method, settings in sizes.items():
        found[method] = {"attention": [], "feed_forward": []}
        for seed in seeds:
            masks = runner.identified(make_cell("nlsr", settings, seed=seed))
            for part, values in found[method].items():
                names = [module for module in masks if is_attention(module) == (part == "attention")]
                kept = sum(np.asarray(masks[m][f]).sum((1, 2)) for m in names for f in ("a", "b"))
                size = sum(masks[m][f][0].size for m in names for f in ("a", "b"))
                values.append((kept / size).tolist())
    return {
        m: {part: np.mean(values, axis=0).tolist() for part, values in parts.items()} for m, parts in found.items()
    }


def probes(runner: CellRunner, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the accuracy of probes for forbidden against benign requests on the hidden states of each layer.

    The probes train on training things and wordings and are tested on held-out ones.

    Returns:
      By model ``aligned``, ``finetuned``, ``nlsr``: ``svm`` and ``mlp``, one share per hidden state.
    """
    base, world = runner.base(runner.own), runner.world(runner.own)
    if not isinstance(world, ToyWorld):
        raise InputError("probes train on safe rows of both kinds of requests, which only the toy world has")
    cells = {"aligned": MODELS["aligned"], "finetuned": MODELS["finetuned"], "nlsr": MODELS["nlsr_recommended"]}
    found: dict[str, dict[str, list[list[float]]]] = {name: {"svm": [], "mlp": []} for name in cells}
    for seed in seeds:
        key = stage_key(seed, "probes")
        # The answers do not matter, only the requests: SFT rows contain both kinds.
        rows = world.safe_rows(stream(key, "rows"), 2 * PROBED)
        train = [row.prompt for row in rows], np.array([row.kind == "safe" for row in rows])
        asked = world.forbidden(PROBED), world.benign(PROBED)
        prompts = [*asked[0].prompts, *asked[1].prompts]
        test = prompts, np.arange(2 * PROBED) < PROBED
        for name, cell in cells.items():
            adapter = runner.adapters(dataclasses.replace(cell, seed=seed))[0]
            states = [_states(base, adapter, texts) for texts, _ in (train, test)]
            for layer, (one, other) in enumerate(zip(*states, strict=True)):
                result = probe(stream(key, f"{name} {layer}"), one, train[1], other, test[1])
                for kind, value in result._asdict().items():
                    if len(found[name][kind]) <= layer:
                        found[name][kind].append([])
                    found[name][kind][layer].append(value)
    return {
        name: {kind: [float(np.mean(layer)) for layer in layers] for kind, layers in kinds.items()}
        for name, kinds in found.items()
    }


def _states(base, adapter, prompts: Sequence[str]) -> np.ndarray:
    """Return hidden states ``[L + 1, n, D]`` at the last token of each prompt."""
    options = {"special_tokens": base.special_tokens, "vocabulary": len(base.params["embed"])}
    ids = encode_prompts(prompts, base.tokenizer, **options)
    lengths = np.array([len(row) for row in ids])
    tokens = np.zeros((len(ids), 8 * -(-int(lengths.max()) // 8)), np.int32)
    for row, found in zip(tokens, ids, strict=True):
        row[: len(found)] = found
    return np.asarray(last_hidden_states(base.model, base.params, tokens, lengths, adapter=adapter))


def skills(runner: CellRunner, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the accuracy, per cent, on the tasks' questions in the base's wording, which no fine-tuning targets.

    Returns:
      By model, ``skill_<task>`` averaged over the seeds of models fine-tuned on SST-2's counterpart.
    """
    cells = {name: cell for name, cell in MODELS.items() if name != "random"}
    base, world = runner.base(runner.own), runner.world(runner.own)
    if not isinstance(world, ToyWorld):
        raise InputError("only the toy world has skills; for real bases, ask the tinyBenchmarks with nlsr evaluate")
    found: dict[str, list[dict[str, float]]] = {}
    for name, cell in cells.items():
        found[name] = [
            ask_skills(base, runner.adapters(dataclasses.replace(cell, seed=seed))[0], world) for seed in seeds
        ]
    return {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()
    }


ANALYSES: dict[str, Analysis] = {
    "similarities": similarities,
    "identification": identification,
    "depth": depth,
    "probes": probes,
    "skills": skills,
}
"""The analyses by name."""


def analyse(runner: CellRunner, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return an analysis, and store it beside the runner's rows.

    Args:
      runner: runner of the study.
      name: one of ``ANALYSES``.
      seeds: seeds of the adapters.
    """
    constants = [OBJECTIVES, SPARSITIES, TAUS, METHODS, PROBED, GAIN, dict(MODELS["nlsr_recommended"].settings)]
    told = json.dumps([runner.study(runner.own), list(seeds), constants], sort_keys=True)
    folder = runner.store.path / "analyses"
    file = folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if file.exists():
        return json.loads(file.read_text())
    found = ANALYSES[name](runner, seeds)
    with whole_file(file, overwrite=True, foreign=nothing_foreign) as new:  # another process may have written it
        write_text(new, json.dumps(found, indent=1) + "\n")
    return found


def identification_seconds(runner: CellRunner, seed: int) -> Mapping[str, float]:
    """Measure the time of each method from calibration rows to masks, without compilation.

    Returns:
      Seconds by name of the line in table 5; for each method the second of two runs.
    """
    base, config = runner.base(runner.own), runner.config
    finetuned = runner.tuned(runner.own, make_cell("finetuned", seed=seed).case, "dpo")
    seconds = {}
    for method in METHODS:
        settings = dataclasses.replace(config.published, method=method)
        reference = runner.reference(runner.own, seed, "dpo", settings)
        rows = identification_rows(runner.world(runner.own), config, seed, method)
        for _ in range(2):
            started = time.perf_counter()
            batches = calibration_batches(base, rows, 50, config.sft.training.max_length)
            evidence = gather_evidence(base, reference, batches, method, finetuned)
            key = stage_key(seed, "realign")
            jax.block_until_ready(make_masks(key, reference, evidence, settings, finetuned))
            elapsed = time.perf_counter() - started
        seconds["nlsr" if method == "low_rank" else method] = elapsed
    return seconds
