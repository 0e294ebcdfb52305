"""The paper's eleven figures on a study: their cells, captions and drawings."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.paper import drawing
from nlsr_jax.paper.analyses import analyse
from nlsr_jax.paper.tables import MODELS, TASK_NAMES, TASKS
from nlsr_jax.sweep.cells import ARCHITECTURES, AUTOMATIC, Cell, make_cell
from nlsr_jax.sweep.runner import CellRunner, read_cells

SPARSITY = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BETA = (0.0, 0.3, 0.6, 0.9, 1.5, 2.0, 3.0)
RANGES = ((0, 1), (2, 3), (4, 5), (0, 1, 2, 3, 4, 5))
ALL = {"rule": "all", "draws": 1}
_SCORES = ("hs", "fa", "over_refusal")

Gather = Callable[["Asked"], dict[str, Any]]


class Figure(NamedTuple):
    """A figure.

    Attributes:
      number: its number in the paper.
      title, caption: self-contained texts; ``{seeds}`` is replaced with the seeds.
      cells: the cells it needs, for the first seed.
      gather: returns the data to draw from an ``Asked``.
      draw: draws the data as a matplotlib figure.
    """

    number: int
    title: str
    caption: str
    cells: tuple[Cell, ...]
    gather: Gather
    draw: Callable[[Mapping[str, Any]], Any]

    def seeded(self, seeds: Sequence[int]) -> list[Cell]:
        """Return its cells for some seeds."""
        return [dataclasses.replace(cell, seed=seed) for cell in self.cells for seed in seeds]


class Asked(NamedTuple):
    """The inputs of a figure: a runner whose store has its rows, and the seeds."""

    runner: CellRunner
    seeds: Sequence[int]

    def row(self, cell: Cell, key: str) -> list[Any]:
        """Return a column of a cell's rows, one value per seed."""
        return [
            row[key] for row in read_cells(self.runner, [dataclasses.replace(cell, seed=s) for s in self.seeds])
        ]

    def curves(self, cells: Sequence[Cell], keys: Sequence[str] = _SCORES) -> dict[str, list[list[float]]]:
        """Return ``[cells, seeds]`` for each key."""
        return {key: [self.row(cell, key) for cell in cells] for key in keys}

    def means(self, cell: Cell) -> dict[str, float]:
        """Return the means of all scores of a cell."""
        return {key: float(np.mean(self.row(cell, key))) for key in _SCORES}


def _nlsr(settings: Mapping[str, Any], **fields) -> Cell:
    return make_cell("nlsr", settings, **fields)


_SHOWN = ("unaligned", "aligned", "finetuned", "nlsr_recommended")


def _setting(asked: Asked) -> dict[str, Any]:
    return {name: asked.means(MODELS[name]) for name in _SHOWN}


def _method(asked: Asked) -> dict[str, Any]:
    return {}


def _broken(asked: Asked) -> dict[str, Any]:
    return analyse(asked.runner, "similarities", asked.seeds)


def _agreement(asked: Asked) -> dict[str, Any]:
    return analyse(asked.runner, "identification", asked.seeds)


_BETA = {
    "as published": [_nlsr({"beta": beta}) for beta in BETA],
    "all modules repaired": [_nlsr({"beta": beta} | ALL) for beta in BETA],
}


def _amplification(asked: Asked) -> dict[str, Any]:
    return {"beta": list(BETA), "parts": {name: asked.curves(cells) for name, cells in _BETA.items()}}


_GAIN = {str(beta): [_nlsr({"beta": beta, "sparsity": sparsity}) for sparsity in SPARSITY] for beta in (0.0, 0.9)}


def _gain(asked: Asked) -> dict[str, Any]:
    bare = {key: asked.row(MODELS["finetuned"], key) for key in _SCORES}
    parts = {beta: asked.curves(cells) for beta, cells in _GAIN.items()}
    return {"sparsity": list(SPARSITY), "parts": parts, "bare": bare}


_SPARSITY = {task: [_nlsr({"sparsity": sparsity}, task=task) for sparsity in SPARSITY] for task in TASKS}


def _sparsity(asked: Asked) -> dict[str, Any]:
    tasks = {TASK_NAMES[task]: asked.curves(cells) for task, cells in _SPARSITY.items()}
    return {"sparsity": list(SPARSITY), "tasks": tasks}


_LAYERS = {
    task: [_nlsr({"rule": "layers", "layers": layers, "draws": 1}, task=task) for layers in RANGES]
    for task in TASKS
}


def _layers(asked: Asked) -> dict[str, Any]:
    names = [f"{layers[0]} to {layers[-1]}" for layers in RANGES]
    return {"ranges": names, "tasks": {TASK_NAMES[task]: asked.curves(cells) for task, cells in _LAYERS.items()}}


_CLEAN = {
    "aligned": [make_cell("aligned", architecture=a) for a in ARCHITECTURES],
    "fine-tuned on clean rows": [make_cell("finetuned", poison_ratio=0.0, architecture=a) for a in ARCHITECTURES],
    "realigned": [make_cell(AUTOMATIC, poison_ratio=0.0, architecture=a) for a in ARCHITECTURES],
}


def _clean(asked: Asked) -> dict[str, Any]:
    found = {name: asked.curves(cells, ["hs", "benign_answered"]) for name, cells in _CLEAN.items()}
    parts = {key: {name: curves[key] for name, curves in found.items()} for key in ("hs", "benign_answered")}
    return {"architectures": [name.capitalize() for name in ARCHITECTURES], **parts}


_TOPICS = {
    "fine-tuned": MODELS["finetuned"],
    "NLSR, as published": MODELS["nlsr"],
    "NLSR, automatic": MODELS["nlsr_recommended"],
}


def _topics(asked: Asked) -> dict[str, Any]:
    found = {name: asked.row(cell, "topics") for name, cell in _TOPICS.items()}
    topics = sorted(found["fine-tuned"][0])
    models = {name: [[row[topic] for row in rows] for topic in topics] for name, rows in found.items()}
    return {"topics": topics, "models": models}


def _inside(asked: Asked) -> dict[str, Any]:
    return {name: analyse(asked.runner, name, asked.seeds) for name in ("probes", "depth")}


def _flat(parts: Mapping[str, Sequence[Cell]]) -> tuple[Cell, ...]:
    return tuple(cell for cells in parts.values() for cell in cells)


_FIGURES = (
    Figure(
        1,
        "What a service's customer does to a safe model",
        "A model is aligned, a customer fine-tunes it on rows of which 5 % are harmful, and it complies "
        "with forbidden requests again; NLSR puts the alignment back without training. HS: forbidden "
        "requests complied with; FA: task rows answered correctly; means over seeds {seeds}.",
        tuple(MODELS[name] for name in _SHOWN),
        _setting,
        drawing.draw_setting,
    ),
    Figure(
        2,
        "The method",
        "From left to right: the difference between the weak and the aligned adapter is amplified, the "
        "entries that safe answers go by are marked, and those that the fine-tuning has damaged are "
        "transplanted back.",
        (),
        _method,
        drawing.draw_method,
    ),
    Figure(
        3,
        "How many modules a fixed threshold would call damaged",
        "Left: share of the adapter's modules whose similarity to the reference is below τ, for four "
        "objectives of the alignment and four sparsities of the masks. At one τ the share differs between"
        " objectives, which is why the method ranks modules and has no threshold. Right: mean similarity "
        "by layer. Seeds {seeds}.",
        (),
        _broken,
        drawing.draw_broken,
    ),
    Figure(
        4,
        "Do methods of identification agree?",
        "Left: share of modules that two methods both count to the least similar half, or both do not. "
        "Middle: share of the row's kept entries that the column keeps too. All masks hold a fifth of the "
        "entries. Right: what transplanting the kept entries takes off the loss on safe answers, to first order, "
        "as a share of what all entries together that take something off it would. Mean over seeds {seeds}.",
        (),
        _agreement,
        drawing.draw_agreement,
    ),
    Figure(
        5,
        "Amplification",
        "Scores over β: stronger amplification lowers HS; what it costs would show in FA and in over-refusal. "
        "Lines are means, bands standard deviations over seeds {seeds}.",
        _flat(_BETA),
        _amplification,
        drawing.draw_amplification,
    ),
    Figure(
        6,
        "The gain from amplification over the sparsity",
        "HS and FA of NLSR as published with β 0 and β 0.9 for masks of different sparsity (the share of "
        "entries that is left alone). Means and standard deviations over seeds {seeds}.",
        (*_flat(_GAIN), MODELS["finetuned"]),
        _gain,
        drawing.draw_gain,
    ),
    Figure(
        7,
        "Sparsity, safety and usefulness",
        "Sparser masks repair less: HS and FA rise together. NLSR as published, three tasks; means and "
        "standard deviations over seeds {seeds}.",
        _flat(_SPARSITY),
        _sparsity,
        drawing.draw_sparsity,
    ),
    Figure(
        8,
        "Which layers to repair",
        "HS and FA where all modules of some decoder layers are repaired and no others. Bars are means, "
        "whiskers standard deviations over seeds {seeds}.",
        _flat(_LAYERS),
        _layers,
        drawing.draw_layers,
    ),
    Figure(
        9,
        "Clean data",
        "Left: HS before and after a fine-tuning without harmful rows, and after the automatic repair, on bases "
        "of three shapes; right: harmless requests that are answered. Bars are means, whiskers standard deviations "
        "over seeds {seeds}.",
        _flat(_CLEAN),
        _clean,
        drawing.draw_clean,
    ),
    Figure(
        10,
        "Topics",
        "HS by topic of the forbidden request, fine-tuned and repaired. Bars are means, whiskers standard"
        " deviations over seeds {seeds}.",
        tuple(_TOPICS.values()),
        _topics,
        drawing.draw_topics,
    ),
    Figure(
        11,
        "Inside the model",
        "Left: how well probes on the hidden state of a request's last token tell forbidden from harmless"
        " requests; they learn on training things and are tested on held-out ones, 50 % is chance. Middle"
        " and right: share of entries that are kept in attention and in the feed-forward part, by layer, "
        "for the low-rank score and for gain. Means over seeds {seeds}.",
        (),
        _inside,
        drawing.draw_inside,
    ),
)  # fmt: skip

FIGURES = {figure.number: figure for figure in _FIGURES}
"""The figures by number."""


def get_figure(number: int) -> Figure:
    """Return a figure.

    Raises:
      InputError: if there is no figure with that number.
    """
    if number not in FIGURES:
        raise InputError(f"figure {number} is not in the paper; expected 1 to {len(FIGURES)}")
    return FIGURES[number]
