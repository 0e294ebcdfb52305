"""The figures of the page. Each function returns an ``<svg>`` element.

Matplotlib is used only through its object interface: no window, no backend, no pyplot state.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nlsr_jax.modules import is_attention, kind_of, module_order
from nlsr_jax.report.reading import Module
from nlsr_jax.report.svg import INK, drawing, new_figure, to_svg

REPAIRED, LEFT = "#d55e00", "#2a8ac4"
_DOT = {"marker": "o", "ls": "", "mfc": "white", "mec": "black"}
_CELL = 0.36  # inches per row of a map


def similarity_map(modules: Sequence[Module]) -> str:
    """Draw the similarity by layer and module, with repaired modules marked."""
    with drawing():
        layers, names = _axes(modules)
        figure = new_figure(1.5 + _CELL * len(names))
        axes = figure.add_subplot()
        mesh = _map(axes, modules, [m.similarity for m in modules], "viridis")
        figure.colorbar(mesh, ax=axes, label="similarity (cosine)", pad=0.01, fraction=0.05)
        _mark_repaired(axes, modules, layers, names)
        axes.set_xlabel("decoder layer")
        _legend(figure, axes)
        return to_svg(figure, "similarity", f"Map of the similarity of {len(modules)} modules")


def lineage_map(modules: Sequence[Module]) -> str:
    """Draw the lineage cosine by layer and module."""
    with drawing():
        known = [m for m in modules if m.lineage is not None]
        figure = new_figure(1.1 + _CELL * len(_axes(modules)[1]))
        axes = figure.add_subplot()
        mesh = _map(axes, known, [m.lineage for m in known], "viridis", grid=modules)
        figure.colorbar(mesh, ax=axes, label="lineage (cosine)", pad=0.01, fraction=0.05)
        axes.set_xlabel("decoder layer")
        return to_svg(figure, "lineage", f"Map of the lineage of {len(known)} modules")


def replaced_map(modules: Sequence[Module]) -> str:
    """Draw the share of replaced entries by layer and module, in per cent."""
    with drawing():
        figure = new_figure(1.1 + _CELL * len(_axes(modules)[1]))
        axes = figure.add_subplot()
        shares = [100 * (m.replaced or 0) / (m.size or 1) for m in modules]
        mesh = _map(axes, modules, shares, "viridis")
        figure.colorbar(mesh, ax=axes, label="entries replaced (%)", pad=0.01, fraction=0.05)
        axes.set_xlabel("decoder layer")
        return to_svg(figure, "replaced", f"Map of the share of replaced entries of {len(modules)} modules")


def change_map(modules: Sequence[Module]) -> str:
    """Draw the size of each module's change by layer and module, in per cent of its update."""
    with drawing():
        figure = new_figure(1.1 + _CELL * len(_axes(modules)[1]))
        axes = figure.add_subplot()
        mesh = _map(axes, modules, [100 * (m.change or 0) for m in modules], "viridis")
        figure.colorbar(mesh, ax=axes, label="change (% of the update)", pad=0.01, fraction=0.05)
        axes.set_xlabel("decoder layer")
        return to_svg(figure, "change", f"Map of the size of the change of {len(modules)} modules")


def repair_map(modules: Sequence[Module]) -> str:
    """Draw the chance of repair by layer and module, with counts of repairs along both margins."""
    with drawing():
        layers, names = _axes(modules)
        figure = new_figure(2.9 + _CELL * len(names))
        grid = figure.add_gridspec(
            2, 2, width_ratios=[6, 1], height_ratios=[1.2, 0.6 + _CELL * len(names)], wspace=0.02
        )
        axes = figure.add_subplot(grid[1, 0])
        chances = [_chance(m) for m in modules]
        mesh = _map(axes, modules, chances, "cividis")
        _mark_repaired(axes, modules, layers, names)
        axes.set_xlabel("decoder layer")
        top = figure.add_subplot(grid[0, 0], sharex=axes)
        right = figure.add_subplot(grid[1, 1], sharey=axes)
        _margin(top.bar, top.plot, modules, [layers.index(m.layer) for m in modules], "_")
        _margin(right.barh, right.plot, modules, [names.index(kind_of(m.name)) for m in modules], "|")
        top.tick_params(labelbottom=False)
        right.tick_params(labelleft=False)
        top.set_ylabel("modules\nrepaired")
        right.set_xlabel("modules repaired")
        _whole_ticks(top.yaxis, right.xaxis)
        figure.colorbar(mesh, ax=[axes, right], label="chance of repair", pad=0.01, fraction=0.05)
        _legend(figure, top, axes)
        return to_svg(figure, "repair", f"Map of the chance of repair of {len(modules)} modules")


def sorted_similarity(modules: Sequence[Module], tau: float | None = None) -> str:
    """Draw all similarities in ascending order, above the chance of repair and the outcome."""
    with drawing():
        figure = new_figure(5.2)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        ordered = sorted(modules, key=lambda m: m.rank)
        styles = {True: ("repaired", REPAIRED, "o", 4.5), False: ("left alone", LEFT, "D", 3.2)}
        for repaired, (label, colour, marker, size) in styles.items():
            chosen = [m for m in ordered if m.repaired == repaired]
            ranks = [m.rank for m in chosen]
            fill = colour if repaired else "none"
            style = {"marker": marker, "ls": "", "color": colour, "mfc": fill, "ms": size, "clip_on": False}
            top.plot(ranks, [m.similarity for m in chosen], label=label, **style)
            ticks = {"marker": "|", "ls": "", "color": colour, "ms": 7, "clip_on": False}
            bottom.plot(ranks, np.full(len(ranks), 1.13 if repaired else -0.13), **ticks)
        if tau is not None:
            top.axhline(tau, color=INK, lw=1, ls="--", label=f"threshold {tau:g}")
        top.set_ylabel("similarity (cosine)")
        top.legend(loc="lower right")
        bottom.step([m.rank for m in ordered], [_chance(m) for m in ordered], color=INK, lw=1.4, where="mid")
        bottom.set_ylabel("chance of repair")
        bottom.set_ylim(-0.2, 1.2)
        bottom.set_yticks(
            [-0.13, 0, 0.25, 0.5, 0.75, 1, 1.13], ["left alone", "0", "0.25", "0.5", "0.75", "1", "repaired"]
        )
        bottom.set_xlabel("modules from the least (1) to the most similar")
        bottom.set_xlim(0.5 - len(modules) * 0.01, len(modules) * 1.01 + 0.5)
        _whole_ticks(bottom.xaxis)
        return to_svg(figure, "sorted", f"Similarity of {len(modules)} modules in rising order")


def refinement_curve(found: Mapping) -> str:
    """Draw how often the repairs that were tried refuse, over the share of entries.

    Args:
      found: from ``nlsr_jax.report.reading.read_refinement``, with trials.
    """
    with drawing():
        figure = new_figure(3.4)
        axes = figure.add_subplot()
        shares = [100 * share for share, *_ in found["trials"]]
        kinds = (("calibration prompts", LEFT, "o", "-"), ("harmless prompts", REPAIRED, "s", "--"))
        for place, (label, colour, marker, line) in enumerate(kinds):
            rates = [100 * rates[place] for _, *rates in found["trials"]]
            axes.plot(shares, rates, marker=marker, ls=line, color=colour, ms=5, lw=1.2, label=label, clip_on=False)
            axes.axhline(100 * found["aligned"][place], color=colour, lw=0.8, ls=":")
        if found["kept"]:
            kept = [(100 * share, 100 * rate) for share, rate in found["kept"]]
            axes.plot(*zip(*kept, strict=True), marker="^", ls="-.", color=INK, ms=5, lw=1.2, label="task kept")
        if found["share"]:
            axes.axvline(100 * found["share"], color=INK, lw=1, label="chosen")
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:.2g}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("entries replaced (%)")
        axes.set_ylabel("prompts (%)" if found["kept"] else "prompts refused (%)")
        axes.set_ylim(0, 100)
        _legend(figure, axes)
        return to_svg(figure, "refinement", f"Refusals of {len(shares)} repairs that were tried")


def score_bars(rows: Sequence[Mapping], names: Mapping[str, str]) -> str:
    """Draw HS, FA and over-refusal of each row of a results table."""
    kinds = {
        "hs": ("HS, lower is better", REPAIRED),
        "fa": ("FA, higher is better", LEFT),
        "over_refusal": ("over-refusal, lower is better", "#8c959f"),
    }
    with drawing():
        figure = new_figure(1.0 + 0.62 * len(rows))
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        for i, (column, (label, colour)) in enumerate(kinds.items()):
            values = [row[column] for row in rows]
            bars = axes.barh(places + 0.27 * (i - 1), values, 0.25, color=colour, label=label)
            axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=2, fontsize="small")
        axes.set_yticks(places, [names.get(row["method"], row["method"]) for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 108)
        axes.set_xlabel("per cent")
        _legend(figure, axes)
        return to_svg(figure, "scores", f"Bars of the scores of {len(rows)} models")


def topic_map(topics: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> str:
    """Draw HS by model and topic."""
    with drawing():
        columns = list(next(iter(topics.values())))
        table = np.array([[found[topic] for topic in columns] for found in topics.values()])
        figure = new_figure(1.9 + _CELL * len(table))
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(table, cmap="cividis", vmin=0, vmax=100, lw=0.3, ec="face")
        for (row, column), value in np.ndenumerate(table):
            colour = "black" if value > 50 else "white"
            axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", color=colour, size="small")
        axes.set_yticks(np.arange(len(table)) + 0.5, [names.get(name, name) for name in topics])
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        figure.colorbar(mesh, ax=axes, label="HS, per cent", pad=0.01, fraction=0.05)
        return to_svg(figure, "topics", f"Map of HS of {len(table)} models in {len(columns)} topics")


def mask_figure(modules: Sequence[Module]) -> str:
    """Draw the number of safety-critical entries, and the share of entries that was replaced."""
    with drawing():
        figure = new_figure(3.6)
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.4])
        _by_name(left, modules)
        _by_depth(right, modules)
        return to_svg(figure, "masks", "Safety-critical and replaced entries by module and by depth")


def _by_name(axes, modules):
    """Draw bars of safety-critical entries per kind of module: replaced, and not replaced."""
    names = _axes(modules)[1]
    kept, replaced = np.zeros(len(names)), np.zeros(len(names))
    for m in modules:
        kept[names.index(kind_of(m.name))] += m.kept / 1e6
        replaced[names.index(kind_of(m.name))] += m.replaced / 1e6
    scale, unit = (1, "millions") if kept.max() >= 0.1 else (1000, "thousands")
    kept, replaced = kept * scale, replaced * scale
    rows = np.arange(len(names))
    axes.barh(rows, replaced, color=REPAIRED, label="replaced")
    if np.any(kept > replaced):
        axes.barh(rows, kept - replaced, left=replaced, color="none", edgecolor=LEFT, label="not replaced")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel(f"safety-critical entries ({unit})")
    axes.set_xlim(0, float(kept.max()) * 1.05 or 1)
    axes.set_title("By kind of module")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)


def _by_depth(axes, modules):
    """Draw the share of replaced entries over the layers, attention against MLP."""
    groups = {"attention": (True, REPAIRED, "o", "-"), "MLP": (False, LEFT, "s", "--")}
    for label, (attention, colour, marker, line) in groups.items():
        chosen = [m for m in modules if is_attention(m.name) is attention]
        layers = sorted({m.layer for m in chosen})
        shares = []
        for layer in layers:
            here = [m for m in chosen if m.layer == layer]
            shares.append(100 * sum(m.replaced for m in here) / sum(m.size for m in here))
        if layers:
            axes.plot(layers, shares, marker=marker, ls=line, color=colour, ms=3.5, lw=1, label=label)
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("entries replaced (%)")
    axes.set_ylim(bottom=0)
    axes.set_title("By depth")
    _whole_ticks(axes.xaxis)
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)


def _axes(modules) -> tuple[list[int], list[str]]:
    """Return the layers and kinds of modules that occur, in order."""
    return sorted({m.layer for m in modules}), sorted({kind_of(m.name) for m in modules}, key=module_order)


def _chance(module: Module) -> float:
    return float(module.repaired) if module.chance is None else module.chance


def _map(axes, modules, values, colours, grid=None):
    """Draw one coloured cell per module; the cell of a module that was not adapted has a cross.

    The experts of a layer share a cell, which has the colour of their mean.
    """
    layers, names = _axes(grid or modules)
    total, count = np.zeros((len(names), len(layers))), np.zeros((len(names), len(layers)))
    for module, value in zip(modules, values, strict=True):
        cell = names.index(kind_of(module.name)), layers.index(module.layer)
        total[cell] += value
        count[cell] += 1
    table = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    room = 0.0 if high - low > 1e-6 else 0.01
    edges = np.arange(len(layers) + 1) - 0.5, np.arange(len(names) + 1) - 0.5
    shown = np.ma.masked_invalid(table)
    mesh = axes.pcolormesh(*edges, shown, cmap=colours, vmin=low - room, vmax=high + room, lw=0.3, ec="face")
    rows, columns = np.nonzero(np.isnan(table))
    axes.plot(columns, rows, marker="x", ls="", color=INK, ms=3)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, len(layers)) if len(layers) / s <= 20)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    return mesh


def _mark_repaired(axes, modules, layers, names):
    chosen = sorted({(layers.index(m.layer), names.index(kind_of(m.name))) for m in modules if m.repaired})
    size = 5.5 if len(layers) <= 48 else 4
    axes.plot(*np.array(chosen).reshape(-1, 2).T, **_DOT, ms=size, mew=0.7, label="repaired")


def _margin(bar, plot, modules, places, marker):
    """Draw bars of the repairs counted at each place, and a tick at the expected number."""
    count = max(places) + 1
    repaired, expected = np.zeros(count), np.zeros(count)
    np.add.at(repaired, places, [m.repaired for m in modules])
    np.add.at(expected, places, [_chance(m) for m in modules])
    bar(range(count), repaired, color=REPAIRED, label="modules repaired")
    ends = (range(count), expected) if marker == "_" else (expected, range(count))
    plot(*ends, marker=marker, ls="", color=INK, ms=7, mew=1.6, label="expected from the chances")


def _whole_ticks(*axes):
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))


def _legend(figure, *axes):
    """Draw one legend above the figure for everything marked in ``axes``."""
    found = [pair for one in axes for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*found, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=math.ceil(len(labels)))
