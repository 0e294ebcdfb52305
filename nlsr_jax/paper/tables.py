"""The paper's eight tables of scores, and two more, as cells: the models that each line averages."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.paper import numbers
from nlsr_jax.study.repairs import FIXED, changes
from nlsr_jax.sweep.cells import ARCHITECTURES, AUTOMATIC, REFINED, Cell, make_cell
from nlsr_jax.training.settings import OBJECTIVES

RATIOS = (0.01, 0.05, 0.1, 0.2, 0.3)
TASKS = ("sst2", "ag_news", "gsm8k")
TASK_NAMES = {"sst2": "SST-2", "ag_news": "AG News", "gsm8k": "GSM8K"}
SCORES = ("hs", "fa", "over_refusal", "benign_answered")
SCORE_NAMES = {
    "hs": "HS",
    "fa": "FA",
    "over_refusal": "over-refusal",
    "benign_answered": "harmless requests answered",
    "odd": "neither",
    "seconds": "seconds",
}
KEPT = 1.0
"""Selected settings of a defense may lose at most this many points of FA against the model without a defense."""


class Line(NamedTuple):
    """A line of a table.

    Attributes:
      name: name of the line, the key of the paper's numbers.
      title: title of the line.
      options: settings of the same defense by description; each is a tuple with a cell of the first seed for every
        column. If there are several, the table selects the one with the lowest mean HS among those that keep FA
        within ``KEPT`` of the fine-tuned model without a defense; if none does, the one with the highest FA.
    """

    name: str
    title: str
    options: Mapping[str, tuple[Cell, ...]]


class Table(NamedTuple):
    """A table.

    Attributes:
      number, title: as in the paper (12 and 13 are additional); ``note`` describes the differences.
      columns: the column headers.
      lines: the lines.
      paper: the paper's numbers.
      scores: the scores shown.
    """

    number: int
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    paper: numbers.Numbers
    note: str
    scores: tuple[str, ...] = SCORES

    def cells(self, seeds: Sequence[int]) -> list[Cell]:
        """Return the distinct cells of all lines for some seeds."""
        found = [
            dataclasses.replace(cell, seed=seed)
            for line in self.lines
            for cells in line.options.values()
            for cell in cells
            for seed in seeds
        ]
        return list(dict.fromkeys(found))


GAIN = changes(FIXED)
FAR = GAIN | {"sparsity": 0.9997, "beta": 100.0}
"""A setting like those that the automatic choice selects, the same for all models."""
STRICT = {"aim": 0.995, "share": 0.03}
"""Stricter than the automatic choice, with at least ten times the entries: shows the cost of a lower HS."""
GRID_BETAS = (0.0, 0.9, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
GRID_SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""The amplifications and shares of entries in the grid that the automatic choice is compared with."""

MODELS = {
    "unaligned": make_cell("unaligned"),
    "aligned": make_cell("aligned"),
    "finetuned": make_cell("finetuned"),
    "random": make_cell("nlsr", {"method": "random"}),
    "nlsr": make_cell("nlsr"),
    "nlsr_recommended": make_cell(AUTOMATIC),
}
"""The models of the story by method."""

TITLES = {
    "nonaligned": "not aligned",
    "finetuned": "aligned, no defense",
    "vaccine": "Vaccine",
    "repnoise": "RepNoise",
    "booster": "Booster",
    "lox": "LoX",
    "vlguard": "VLGuard",
    "lisa": "Lisa",
    "constrained_sft": "Constrained SFT",
    "safelora": "SafeLoRA",
    "safemerge": "SafeMERGE",
    "resta": "RESTA",
    "splora": "SPLoRA",
    "lssf": "LSSF",
    "mscp": "MSCP",
    "antidote": "Antidote",
    "nlsr": "NLSR, as published",
    "nlsr gain": "NLSR, gain, one setting",
    "nlsr recommended": "NLSR, automatic",
    "nlsr strict": "NLSR, strict",
    "nlsr refined": "NLSR, refined (the default)",
}

COMPARED = ("lisa", "constrained_sft", "safelora", "nlsr", "nlsr gain", "nlsr recommended")
"""Lines of tables 2, 3 and 6."""

OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "lox": ({}, {"rank": 0, "coefficient": 1.0}),
    "safelora": (
        {"number": 4}, {"number": 10}, {"number": 21},
        {"tau": 0.6, "side": "input"}, {"number": 10, "projector": "exact"}, {"number": 42, "projector": "exact"},
    ),
    "safemerge": ({}, {"tau": 1.0}, {"tau": 1.0, "weight": 0.6}),
    "resta": ({"gamma": 0.25}, {"gamma": 0.5}, {"gamma": 1.0}),
    "splora": ({"number": 2}, {"number": 5}, {"number": 10}),
    "lssf": ({"alpha": 0.5}, {}, {"alpha": 2.0}),
    "mscp": ({}, {"coefficient": 0.05}, {"coefficient": 0.5, "width": 0.5}),
    "antidote": ({"share": 0.01}, {"share": 0.03}, {}),
}  # fmt: skip
"""Settings to try for defenses that are cheap to vary; the others use the settings of their papers."""


def _line(name: str, columns: Sequence[Mapping[str, Any]]) -> Line:
    """Return the line of a method; columns are the fields of ``Cell`` that make them."""
    method, settings = {
        "nlsr": ("nlsr", ({},)),
        "nlsr gain": ("nlsr", (GAIN,)),
        "nlsr recommended": (AUTOMATIC, ({},)),
        "nlsr strict": (AUTOMATIC, (STRICT,)),
        "nlsr refined": (REFINED, ({},)),
    }.get(name, (name, OPTIONS.get(name, ({},))))
    return Line(name, TITLES[name], {_words(one): _cells(method, one, columns) for one in settings})


def _cells(method: str, settings: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    return tuple(make_cell(method, settings, **column) for column in columns)


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _nlsr(name: str, title: str, settings: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Line:
    return Line(name, title, {"": _cells("nlsr", settings, columns)})


def _poison() -> Table:
    columns = [{"poison_ratio": ratio} for ratio in RATIOS]
    return Table(
        1,
        "Five shares of harmful rows, every defense",
        tuple(f"{ratio:.0%}" for ratio in RATIOS),
        tuple(_line(name, columns) for name in TITLES),
        numbers.POISON,
        "SST-2's counterpart.",
    )


def _objectives() -> Table:
    columns = [{"objective": objective} for objective in OBJECTIVES]
    names = ("finetuned", "vlguard", *COMPARED, "nlsr refined")
    return Table(
        2,
        "Five objectives of the alignment",
        tuple("SimPO" if objective == "simpo" else objective.upper() for objective in OBJECTIVES),
        tuple(_line(name, columns) for name in names),
        numbers.OBJECTIVES,
        "After SFT alone the weak and the aligned adapter are one, so that there is nothing to amplify.",
    )


def _tasks() -> Table:
    columns = [{"task": task} for task in TASKS]
    names = ("nonaligned", "finetuned", "vlguard", *COMPARED, "nlsr refined")
    lines = tuple(_line(name, columns) for name in names)
    return Table(3, "Three tasks", tuple(TASK_NAMES.values()), lines, numbers.TASKS, "")


def _amplification() -> Table:
    columns = [{"task": task} for task in TASKS]
    lines = (
        _line("finetuned", columns),
        _nlsr("nlsr without amplification", "NLSR, as published, β 0", {"beta": 0.0}, columns),
        _line("nlsr", columns),
        _nlsr("nlsr gain without", "NLSR, gain, one setting, β 0", GAIN | {"beta": 0.0}, columns),
        _line("nlsr gain", columns),
    )
    title = "With and without amplification"
    return Table(4, title, tuple(TASK_NAMES.values()), lines, numbers.AMPLIFICATION, "")


def _identification() -> Table:
    columns: list[dict[str, Any]] = [{}]
    names = {
        "random": "random",
        "magnitude": "magnitude",
        "wanda": "Wanda",
        "snip": "SNIP",
        "preference_snip": "preference SNIP",
    }
    lines = [_line("finetuned", columns)]
    lines += [_nlsr(name, title, {"method": name}, columns) for name, title in names.items()]
    lines += [Line("nlsr", "low rank (NLSR)", _line("nlsr", columns).options)]
    lines += [_nlsr("gain", "gain", {"method": "gain"}, columns)]
    note = "All masks hold as many entries (gain leaves out those without a gain), the rest is as published."
    return Table(
        5, "Methods of identification", ("SST-2",), tuple(lines), numbers.IDENTIFICATION, note, (*SCORES, "seconds")
    )


def _other_requests() -> Table:
    columns = [{"poison_ratio": ratio, "requests": "contextual"} for ratio in (0.01, 0.1)]
    names = ("finetuned", "vlguard", "vaccine", *COMPARED, "nlsr refined")
    note = "HarmBench in the paper; here requests of every category equally often, half of them in a context."
    return Table(
        6,
        "Another set of forbidden requests",
        ("1%", "10%"),
        tuple(_line(name, columns) for name in names),
        numbers.OTHER_REQUESTS,
        note,
    )


def _architectures() -> Table:
    columns = [{"architecture": architecture} for architecture in ARCHITECTURES]
    names = ("finetuned", "safelora", "nlsr", "nlsr gain", "nlsr recommended", "nlsr refined")
    note = (
        "Bases of one size in the shapes of Llama, Qwen2 and Mistral; of the paper's table only means are public."
    )
    heads = tuple(name.capitalize() for name in ARCHITECTURES)
    return Table(7, "Three architectures", heads, tuple(_line(name, columns) for name in names), {}, note)


def _transfer() -> Table:
    columns: list[dict[str, Any]] = [{"task": task} for task in TASKS[1:]]
    moved = [column | {"identified_on": "sst2"} for column in columns]
    lines = (
        _line("finetuned", columns),
        _line("nlsr", columns),
        _nlsr("nlsr, chosen on sst2", "NLSR, as published, chosen on SST-2", {}, moved),
        _line("nlsr gain", columns),
        _nlsr("nlsr gain, chosen on sst2", "NLSR, gain, one setting, chosen on SST-2", GAIN, moved),
        _line("nlsr refined", columns),
    )
    note = "Entries and modules chosen on the adapter that was fine-tuned on SST-2, transplanted into the column's."
    return Table(8, "From one task to another", ("AG News", "GSM8K"), lines, numbers.TRANSFER, note)


ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "rows": ("one threshold for every row of a factor", {"granularity": "row"}),
    "adapter": ("one threshold for the whole adapter", {"granularity": "adapter"}),
    "product amplification": ("amplified in product space", {"amplification_space": "product"}),
    "product correction": ("corrected in product space", {"space": "product"}),
    "least similar": ("least similar half, no draw", {"rule": "least_similar", "share": 0.5}),
    "all": ("all modules, no draw", {"rule": "all"}),
    "snip": (
        "SNIP, sparsity 0.9, least similar two fifths",
        {"method": "snip", "sparsity": 0.9, "rule": "least_similar", "share": 0.4},
    ),
    "turned": ("no lineage: the rank axis turned at random", {"turned": True}),
    "turned, procrustes": ("the same in a common basis (Procrustes)", {"turned": True, "basis": "procrustes"}),
    "turned, linear": ("the same in a common basis (linear)", {"turned": True, "basis": "linear"}),
    "gain tensor": (
        "gain, all modules, sparsity 0.995, one threshold for every factor",
        {"method": "gain", "sparsity": 0.995, "rule": "all"},
    ),
    "gain": ("gain, all modules, sparsity 0.995, one threshold for the whole adapter", GAIN),
    "far": ("the same, sparsity 0.9997, β 100: few entries, far amplified", FAR),
    "gain turned": ("gain, sparsity 0.995, no lineage", GAIN | {"turned": True}),
    "gain turned, procrustes": (
        "the same in a common basis (Procrustes)",
        GAIN | {"turned": True, "basis": "procrustes"},
    ),
}
"""Changes to the published setting beyond the paper, by name: description and settings."""


def _beyond() -> Table:
    columns = [{"task": task} for task in TASKS]
    lines = [_line("finetuned", columns), _line("nlsr", columns)]
    lines += [_nlsr(name, title, settings, columns) for name, (title, settings) in ABLATIONS.items()]
    lines += [_line("nlsr recommended", columns), _line("nlsr refined", columns)]
    note = "Each line changes the setting above it that it names, the published one first, in nothing else."
    return Table(12, "Beyond the paper", tuple(TASK_NAMES.values()), tuple(lines), {}, note)


def _grid() -> Table:
    columns = [{"task": task} for task in TASKS]
    fixed = {"method": "gain", "granularity": "adapter", "rule": "all", "draws": 1}
    settings = [fixed | {"beta": beta, "sparsity": 1 - share} for beta in GRID_BETAS for share in GRID_SHARES]
    options = {
        f"beta {one['beta']:g}, sparsity {one['sparsity']:g}": _cells("nlsr", one, columns) for one in settings
    }
    lines = (
        _line("finetuned", columns),
        Line("grid", f"best of {len(options)} settings", options),
        _line("nlsr recommended", columns),
        _line("nlsr refined", columns),
        _line("nlsr gain", columns),
    )
    note = "The best of the grid is chosen by the scores that are shown; the automatic choice sees none of them."
    return Table(13, "The automatic choice against a grid", tuple(TASK_NAMES.values()), lines, {}, note)


TABLES = {
    table.number: table
    for table in (
        _poison(), _objectives(), _tasks(), _amplification(),
        _identification(), _other_requests(), _architectures(), _transfer(), _beyond(), _grid(),
    )
}  # fmt: skip
"""The tables of scores by their number in the paper."""


def get_table(number: int) -> Table:
    """Return a table.

    Raises:
      InputError: if there is no table of scores with that number.
    """
    if number not in TABLES:
        raise InputError(f"table {number} is not a table of scores; expected one of {', '.join(map(str, TABLES))}")
    return TABLES[number]
