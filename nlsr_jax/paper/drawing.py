"""Draw the figures. Each function takes the data that ``figures`` gathers and returns a matplotlib figure.

Matplotlib is used only through its object interface, inside ``nlsr_jax.report.svg.drawing``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nlsr_jax.report.svg import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#d55e00", "#2a8ac4", "#4d9078", "#b47aa5", "#8a6d3b", "#6b7280", "#c9a227")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_METHODS = {
    "low_rank": "low rank",
    "wanda": "Wanda",
    "snip": "SNIP",
    "preference_snip": "preference SNIP",
}
_BOX = {"boxstyle": "round,pad=0.5", "facecolor": "none", "edgecolor": INK}
_ARROW = {"arrowstyle": "-|>", "color": INK, "lw": 1.3, "shrinkA": 2, "shrinkB": 2}


def _panels(count: int, height: float):
    figure = new_figure(height)
    return figure, np.atleast_1d(figure.subplots(1, count))


def _curve(axes, x, y, index: int, label: str, spread=None) -> None:
    style = {"color": COLOURS[index], "marker": _MARKS[index], "ms": 4, "lw": 1.5}
    axes.plot(x, y, label=label, **style)
    if spread is not None:
        low, high = np.asarray(y) - spread, np.asarray(y) + spread
        axes.fill_between(x, low, high, color=COLOURS[index], alpha=0.15, lw=0)


def _scheme(boxes: Sequence[tuple[float, float, str]], arrows: Sequence[tuple[int, int, str]], height: float):
    """Draw boxes with text at ``(x, y)`` in [0, 1], and arrows with text between them."""
    figure = new_figure(height)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1))
    drawn = [axes.text(x, y, text, ha="center", va="center", bbox=_BOX, fontsize=9) for x, y, text in boxes]
    for start, end, text in arrows:
        axes.annotate(
            "", xy=boxes[end][:2], xytext=boxes[start][:2],
            arrowprops=_ARROW | {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()},
        )  # fmt: skip
        (x0, y0, _), (x1, y1, _) = boxes[start], boxes[end]
        side: dict[str, Any] = {"ha": "left", "va": "center"} if x0 == x1 else {"ha": "center", "va": "bottom"}
        shift = (0.012, 0) if x0 == x1 else (0, 0.03)
        axes.text((x0 + x1) / 2 + shift[0], (y0 + y1) / 2 + shift[1], text, fontsize=8, **side)
    return figure


def draw_setting(data: Mapping[str, Any]) -> "Figure":
    """Draw what happens to a model in fine-tuning as a service, with the measured scores."""

    def words(title: str, name: str) -> str:
        row = data[name]
        return f"{title}\nHS {row['hs']:.0f} %, FA {row['fa']:.0f} %"

    boxes = [
        (0.10, 0.75, words("base", "unaligned")),
        (0.40, 0.75, words("aligned", "aligned")),
        (0.75, 0.75, words("fine-tuned", "finetuned")),
        (0.75, 0.22, words("realigned by NLSR", "nlsr_recommended")),
        (0.40, 0.22, "safety reference:\nthe alignment, amplified"),
    ]
    arrows = [
        (0, 1, "alignment"),
        (1, 2, "customer's rows,\na few of them harmful"),
        (2, 3, "transplant, no training"),
        (1, 4, "amplify"),
        (4, 3, "safety-critical\nentries"),
    ]
    return _scheme(boxes, arrows, 3.2)


def draw_method(data: Mapping[str, Any]) -> "Figure":
    """Draw the three steps of the method."""
    boxes = [
        (0.10, 0.80, "weak adapter W₀"),
        (0.10, 0.22, "aligned adapter Wₐ"),
        (0.36, 0.50, "reference\nWₑ = Wₐ + β (Wₐ − W₀)"),
        (0.36, 0.10, "safe answers"),
        (0.62, 0.50, "masks M:\nthe largest entries of Ŵ,\nthe low-rank part that\nsafe answers go by"),
        (0.62, 0.92, "fine-tuned adapter Wₜ"),
        (0.90, 0.50, "where the masked products\ndiffer, entries of M are\nput back from Wₑ;\nthe rest stays Wₜ"),
    ]
    arrows = [
        (0, 2, ""), (1, 2, "1 amplify"), (2, 4, "2 identify"), (3, 4, ""), (4, 6, "3 restore"), (5, 6, ""),
    ]  # fmt: skip
    return _scheme(boxes, arrows, 3.6)


def draw_broken(data: Mapping[str, Any]) -> "Figure":
    """Draw the share of modules below a similarity by objective, and the similarity by layer."""
    figure = new_figure(5.6)
    grid = figure.add_gridspec(2, 3)
    places = [grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]]
    first: Any = None
    for place, (objective, by_sparsity) in zip(places, data["below"].items(), strict=True):
        axes = figure.add_subplot(place, sharex=first, sharey=first)
        first = first or axes
        for i, (sparsity, shares) in enumerate(by_sparsity.items()):
            axes.plot(data["taus"], 100 * np.asarray(shares), color=COLOURS[i], label=f"sparsity {sparsity}")
        axes.set_title("SimPO" if objective == "simpo" else objective.upper())
        axes.set(xlabel="threshold τ of the similarity", ylabel="modules below τ, %", ylim=(0, 100))
        axes.label_outer()
    first.legend()
    axes = figure.add_subplot(grid[:, 2])
    for i, (sparsity, values) in enumerate(data["by_layer"].items()):
        _curve(axes, range(len(values)), values, i, f"sparsity {sparsity}")
    axes.set(xlabel="decoder layer", ylabel="mean similarity (cosine)", title="DPO, by layer")
    return figure


def draw_agreement(data: Mapping[str, Any]) -> "Figure":
    """Draw the agreement of the methods on damaged modules and kept entries, and the gain of these entries."""
    figure, (left, right, last) = _panels(3, 4.6)
    names = [_METHODS.get(name, name) for name in data["methods"]]
    parts = (("agreement", "modules on which\ntwo methods agree"), ("overlap", "kept entries\nin common"))
    for axes, (name, title) in zip((left, right), parts, strict=True):
        values = 100 * np.asarray(data[name])
        axes.imshow(values, cmap="viridis", vmin=0, vmax=100)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{title}, %\n(chance {100 * data[name + '_chance']:.0f})")
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    right.set_yticks(range(len(names)), [""] * len(names))
    gained = 100 * np.asarray(data["gained"])
    bars = last.barh(range(len(names)), gained, color=COLOURS[0])
    last.bar_label(bars, [f"{value:.0f}" for value in gained], padding=3, fontsize=8)
    last.set_yticks(range(len(names)), names)
    last.invert_yaxis()
    last.set(xlabel="of all gain, %", xlim=(0, 110), title="gain of the\nkept entries\n(loss on safe answers)")
    return figure


def _scores(axes, x, series: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, title: str = "") -> None:
    """Draw curves ``[x, seeds]`` by label as mean and standard deviation."""
    for i, (label, found) in enumerate(series.items()):
        values = np.asarray(found)
        _curve(axes, x, values.mean(1), i, label, values.std(1))
    axes.set(xlabel=xlabel, ylabel="%", title=title)
    axes.set_ylim(0, 102)


def draw_amplification(data: Mapping[str, Any]) -> "Figure":
    """Draw the scores over β."""
    figure, panels = _panels(2, 3.6)
    for axes, (title, part) in zip(panels, data["parts"].items(), strict=True):
        names = {"hs": "HS", "fa": "FA", "over_refusal": "over-refusal"}
        _scores(axes, data["beta"], {names[k]: part[k] for k in names}, "amplification β", title)
    panels[-1].legend(loc="center right")
    return figure


def draw_gain(data: Mapping[str, Any]) -> "Figure":
    """Draw HS and FA with and without amplification over the sparsity."""
    figure, panels = _panels(2, 3.6)
    for axes, (score, name) in zip(panels, (("hs", "HS"), ("fa", "FA")), strict=True):
        series = {f"β {beta}": data["parts"][beta][score] for beta in data["parts"]}
        _scores(axes, data["sparsity"], series, "sparsity P_SR", name)
        axes.axhline(np.mean(data["bare"][score]), color=INK, ls=":", lw=1, label="no repair")
    panels[0].set_ylabel("HS, %")
    panels[1].set_ylabel("FA, %")
    panels[1].legend(loc="lower right")
    return figure


def draw_sparsity(data: Mapping[str, Any]) -> "Figure":
    """Draw all scores over the sparsity, by task."""
    figure, panels = _panels(3, 3.4)
    names = {"hs": "HS", "fa": "FA", "over_refusal": "over-refusal"}
    for axes, (task, part) in zip(panels, data["tasks"].items(), strict=True):
        _scores(axes, data["sparsity"], {names[k]: part[k] for k in names}, "sparsity P_SR", task)
        axes.label_outer()
    panels[0].legend(loc="center left")
    return figure


def _bars(axes, groups: Sequence[str], series: Mapping[str, Any], ylabel: str) -> None:
    """Draw bars ``[groups, seeds]`` by label, with the standard deviation."""
    width = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        values = np.asarray(values)
        x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        axes.bar(x, values.mean(1), width * 0.92, color=COLOURS[i], label=label)
        axes.errorbar(x, values.mean(1), values.std(1), fmt="none", ecolor=INK, lw=1)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel=ylabel)


def _legend_above(axes) -> None:
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
    axes.legend(ncols=3, loc="upper center")


def draw_layers(data: Mapping[str, Any]) -> "Figure":
    """Draw HS and FA for repairs of only some decoder layers."""
    figure, panels = _panels(2, 3.6)
    for axes, (score, name) in zip(panels, (("hs", "HS"), ("fa", "FA")), strict=True):
        _bars(axes, data["ranges"], {task: data["tasks"][task][score] for task in data["tasks"]}, f"{name}, %")
        axes.set(xlabel="repaired decoder layers")
    _legend_above(panels[0])
    return figure


def draw_clean(data: Mapping[str, Any]) -> "Figure":
    """Draw HS and answered harmless requests after fine-tuning on clean rows."""
    figure, panels = _panels(2, 3.6)
    names = {"hs": "HS, %", "benign_answered": "harmless requests answered, %"}
    for axes, (score, name) in zip(panels, names.items(), strict=True):
        _bars(axes, data["architectures"], data[score], name)
        axes.set(xlabel="architecture of the base")
    _legend_above(panels[0])
    return figure


def draw_topics(data: Mapping[str, Any]) -> "Figure":
    """Draw HS by topic before and after the repair."""
    figure, (axes,) = _panels(1, 3.8)
    _bars(axes, data["topics"], data["models"], "HS, %")
    axes.tick_params(axis="x", rotation=45)
    axes.set(xlabel="topic (category of the toy world)", ylim=(0, 125))
    axes.legend(ncols=3, loc="upper center")
    return figure


def draw_inside(data: Mapping[str, Any]) -> "Figure":
    """Draw the probes on the hidden states, and the positions of the kept entries."""
    figure, panels = _panels(3, 4.4)
    names = {"aligned": "aligned", "finetuned": "fine-tuned", "nlsr": "realigned"}
    for i, (model, label) in enumerate(names.items()):
        for kind, style in (("svm", "-"), ("mlp", "--")):
            values = 100 * np.asarray(data["probes"][model][kind])
            words = "linear SVM" if kind == "svm" else "MLP"
            panels[0].plot(values, style, color=COLOURS[i], marker=_MARKS[i], ms=3, label=f"{label}, {words}")
    panels[0].axhline(50, color=INK, ls=":", lw=1)
    panels[0].set(xlabel="hidden state (0: embedding)", ylabel="requests told apart, %", ylim=(40, 102))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    for axes, (method, parts) in zip(panels[1:], data["depth"].items(), strict=True):
        for i, (part, shares) in enumerate(parts.items()):
            _curve(axes, range(len(shares)), 100 * np.asarray(shares), i, part.replace("_", "-"))
        axes.set(xlabel="decoder layer", ylabel="kept entries, %", title=method.replace("_", " "))
        axes.set_ylim(bottom=0)
    panels[1].legend()
    return figure
