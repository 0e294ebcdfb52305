"""Customers' adapters of the tiny base, made from the shipped ones and all different."""

import json
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, concatenate, delta, truncate
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.models import load_model, save_model

SHIPPED = pathlib.Path(__file__).parents[1] / "checkpoints" / "tiny-llama3"
SITUATIONS = ("instruct", "lineage")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class World(NamedTuple):
    """The inputs of a fleet.

    Attributes:
      jobs: the file of jobs.
      flags: what all jobs have in common.
      adapters: folders of the customers' adapters.
    """

    jobs: pathlib.Path
    flags: tuple[str, ...]
    adapters: tuple[pathlib.Path, ...]


def make_world(folder: pathlib.Path, situation: str, count: int) -> World:
    """Write the inputs of a fleet.

    Args:
      folder: where to write; created if missing.
      situation: ``"instruct"``: adapters that were trained on an instruct model, the base with the shipped
        alignment merged into it; ``"lineage"``: adapters that go on from the shipped aligned one.
      count: number of adapters.
    """
    aligned, finetuned = (load_adapter(SHIPPED / name) for name in ("dpo", "finetuned_sst2"))
    base, flags = SHIPPED / "base", ("--aligned", str(SHIPPED / "dpo"))
    if situation == "instruct":
        base, flags = save_instruct(folder / "instruct", aligned), ()
        finetuned = truncate(concatenate(finetuned, aligned, (1.0, -1.0)), 16)
        aligned = jax.tree.map(jnp.zeros_like, finetuned)
    places = []
    for number in range(count):
        place = folder / "adapters" / f"{number:02}"
        if not place.exists():
            save_adapter(_customer(number, aligned, finetuned), place, base_model_name_or_path=str(base))
        places.append(place)
    jobs = folder / "jobs.jsonl"
    rows = ({"finetuned": str(place), "output": f"repaired-{place.name}"} for place in places)
    jobs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = [f"--calibration={SHIPPED / 'calibration.jsonl'}", f"--harmless={SHIPPED / 'harmless.jsonl'}"]
    return World(jobs, ("--base", str(base), *flags, *shared), tuple(places))


def _customer(number: int, aligned: Adapter, finetuned: Adapter) -> Adapter:
    """Return another customer's adapter: ``finetuned``, more or less far from ``aligned``, with noise."""
    rng = np.random.default_rng(number)
    scale = rng.uniform(0.8, 1.2)

    def moved(start, end):
        step = np.asarray(end) - np.asarray(start)
        noise = rng.normal(size=step.shape) * 0.1 * step.std()
        return (np.asarray(start) + scale * step + noise).astype(np.float32)

    return Adapter(jax.tree.map(moved, aligned.factors, finetuned.factors), finetuned.scaling)


def save_instruct(folder: pathlib.Path, aligned: Adapter) -> pathlib.Path:
    """Write the tiny base with an adapter merged, unless the folder exists; returns the folder."""
    if folder.exists():
        return folder
    model, params = load_model(SHIPPED / "base")
    layers = {name: dict(leaf) for name, leaf in params["layers"].items()}
    for module, update in delta(aligned).items():
        layers[module]["kernel"] = layers[module]["kernel"] + update
    save_model(model, {**params, "layers": layers}, folder)
    for name in _TOKENIZER:
        shutil.copy(SHIPPED / "base" / name, folder / name)
    return folder
