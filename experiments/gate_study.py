"""Compare the decisions of the gate with the truth: 40 adapters of the toy world whose rates are known.

  python -m experiments.gate_study --output checkpoints/runs/gate

The adapters are mixtures of the shipped ones: between the repaired and the fine-tuned one, between the aligned and
the fine-tuned one, and the repaired and the aligned one with their update scaled. Each answers every held-out
request of the toy world, with and without a sentence of context: 1008 harmful and 720 harmless ones. The rates over
all of these are its truth. The gate sees a sample of them, drawn with replacement, and decides the bounds; this is
done 10,000 times for each adapter and number of rows.

table.json has a row for each adapter, number of rows and bound, and one for all bounds at once: the truth, the
decision on the first sample, and how often each decision was made. summary.json has the error rates. Two CPU cores
take three minutes.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from nlsr_jax.commands import command, path_flags

if TYPE_CHECKING:
    import numpy as np

    from nlsr_jax.adapter import Adapter
    from nlsr_jax.data.toy_world import Request, World

path_flags.define_output("output", "checkpoints/runs/gate", "Folder to write; it appears whole or not at all.")
flags.DEFINE_integer("seed", 0, "Seed of the samples.")
FLAGS = flags.FLAGS
KINDS = ("harmful", "harmless")
"""Kinds of requests."""


class Recipe(NamedTuple):
    """A mixture of two adapters: ``weight`` of the second one, and all of it times ``scale``."""

    first: str
    second: str
    weight: float
    scale: float

    @property
    def name(self) -> str:
        """Return the recipe in words."""
        if not self.weight:
            return f"{self.first} times {self.scale:g}"
        return f"{1 - self.weight:g} of {self.first}, {self.weight:g} of {self.second}"


def recipes() -> list[Recipe]:
    """Return the recipes of the 40 adapters."""
    found = [Recipe("repaired", "fine-tuned", round(0.08 * step, 2), 1.0) for step in range(1, 11)]
    found += [Recipe("aligned", "fine-tuned", round(0.04 * step, 2), 1.0) for step in range(1, 11)]
    found += [Recipe("repaired", "fine-tuned", 0.0, round(0.6 + 0.08 * step, 2)) for step in range(10)]
    return found + [Recipe("aligned", "fine-tuned", 0.0, round(0.8 + 0.1 * step, 2)) for step in range(10)]


def make_adapter(recipe: Recipe, known: Mapping[str, "Adapter"]) -> "Adapter":
    """Return the mixture of updates, exactly, as one adapter."""
    from nlsr_jax.adapter import concatenate

    weights = ((1 - recipe.weight) * recipe.scale, recipe.weight * recipe.scale)
    return concatenate(known[recipe.first], known[recipe.second], weights)


def requests_of(world: "World", *, forbidden: bool) -> list["Request"]:
    """Return every held-out request of a kind, without and with a sentence about the thing."""
    from nlsr_jax.data.toy_world import HELD_OUT_PHRASINGS, TRAIN_THINGS, Request

    return [
        Request(index, verb, thing, phrasing, context)
        for index, category in enumerate(world.categories)
        if category.forbidden == forbidden
        for verb in category.verbs
        for thing in category.things[TRAIN_THINGS:]
        for phrasing in HELD_OUT_PHRASINGS
        for context in ("", f"a {thing} belongs to {category.name} .")
    ]


class Pool:
    """All requests, and the shipped base that answers them."""

    def __init__(self) -> None:
        from nlsr_jax.configs.tiny import SHIPPED
        from nlsr_jax.data.prompts import make_render
        from nlsr_jax.formats.peft import load_adapter
        from nlsr_jax.models import load_model
        from nlsr_jax.study.toy import ToyWorld

        world = ToyWorld()
        self.world, self._tokenizer = world.world, world.tokenizer
        render = make_render("chat", world.tokenizer)
        self.requests = {
            kind: requests_of(self.world, forbidden=kind == "harmful") for kind in ("harmful", "harmless")
        }
        self._prompts = [render(one.text, "") for found in self.requests.values() for one in found]
        self._model, self._params = load_model(str(SHIPPED / "base"))
        places = {"aligned": "dpo", "fine-tuned": "finetuned_sst2", "repaired": "realigned_sst2"}
        self.known = {name: load_adapter(SHIPPED / place) for name, place in places.items()}

    def marks(self, adapter: "Adapter") -> dict[str, "np.ndarray"]:
        """Return what every answer of an adapter counts for each measure: ``{measure: [n] bool}``."""
        import numpy as np

        from nlsr_jax.data.toy_judge import COMPLIED, REFUSED, judge_all
        from nlsr_jax.evaluation.responses import respond

        asked = [one for found in self.requests.values() for one in found]
        answers = respond(
            self._model,
            self._params,
            self._tokenizer,
            self._prompts,
            adapter=adapter,
            max_new_tokens=22,
            batch_size=len(asked) // 2,
            special_tokens=False,
        )
        verdicts = np.array(judge_all(self.world, asked, answers))
        harmful, harmless = np.split(verdicts, [len(self.requests["harmful"])])
        return {
            "hs": harmful == COMPLIED,
            "over_refusal": harmless == REFUSED,
            "benign_answered": harmless == COMPLIED,
        }


def main(_) -> None:
    """Answer, sample and decide."""
    from experiments.gate_samples import ROWS, sample_rows, summarise
    from nlsr_jax.files.output import whole_directory, write_text

    pool, table = Pool(), list[dict[str, Any]]()
    for recipe in recipes():
        marks = pool.marks(make_adapter(recipe, pool.known))
        table += [row for rows in ROWS for row in sample_rows(recipe.name, marks, rows, FLAGS.seed)]
        rates = ", ".join(f"{name} {100 * found.mean():.1f} %" for name, found in marks.items())
        print(f"{recipe.name}: {rates}", flush=True)
    summary = summarise(table)
    with whole_directory(FLAGS.output) as folder:
        write_text(folder / "table.json", "[\n" + ",\n".join(map(json.dumps, table)) + "\n]\n")
        write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    for row in summary:
        print(row)
    print(f"wrote {FLAGS.output}")


if __name__ == "__main__":
    command.run(main)
