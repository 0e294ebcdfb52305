"""The sentences of docs/results.md: no figure stands there that no shipped table accounts for."""

import json
import re
import statistics

from nlsr_jax.sweep.cells import make_cell
from tests.paper.shipped import (
    AUTOMATIC,
    NONE,
    PUBLISHED,
    REFINED,
    RESULTS,
    SEEDS,
    SHIPPED,
    STRICT,
    best_of_grid,
    data,
    figures,
    mean,
    means,
    read,
    row_of,
    tables_of_figures,
    unchecked,
    values,
)

BEST = ("hs", "fa", "benign_answered")


def rivals_on_the_other_base(base):
    """What the verdict of the other base's table says of defenses with a lower HS than the automatic choice."""
    verdict = json.loads((SHIPPED / "other-base" / "table_1.json").read_text(encoding="utf-8"))["verdict"]
    own = verdict.partition("Of lower HS than NLSR, automatic,")[2].partition("Of lower HS than NLSR, strict")[0]
    free, _, dear = own.partition(". Of lower HS at the price")
    assert free.endswith(": LSSF at 10%")
    as_published = verdict.partition("Of lower HS than NLSR, gain")[0]
    lssf = re.search(r"LSSF at 10% \([\d.]+ against [\d.]+ refused, ([\d.]+) against", as_published)[1]
    answered = figures(values(base, AUTOMATIC, "benign_answered")["10%"])[0]
    yield f"answers {lssf} of 100 harmless requests, where the automatic choice answers {answered}."
    others = re.findall(
        r"(\w+)(?: \([^)]*\))? at (\d+%) \([\d.]+ against [\d.]+ refused, ([\d.]+) against ([\d.]+)", dear
    )
    assert [name for name, *_ in others] == ["LoX", "RESTA", "RESTA", "RESTA", "LSSF", "LSSF"]
    assert {column for _, column, *_ in others} == {"1%"}
    answers, (ours,) = sorted(float(one) for *_, one, _ in others), {own for *_, own in others}
    spread = f"between {answers[0]} and {answers[-1]} of 100 harmless requests"
    yield f"{spread}, where the automatic choice answers {ours}."


def seeds_of(number, folder="tables"):
    """Seeds of a table, as its note names them."""
    note = json.loads((SHIPPED / folder / f"table_{number}.json").read_text(encoding="utf-8"))["note"]
    seeds = [*map(int, re.search(r"over seeds ([\d, ]*\d)", note)[1].split(", "))]
    assert seeds == [*range(seeds[0], seeds[-1] + 1)]
    return f"seeds {seeds[0]} to {seeds[-1]}"


def worst(method, **column):
    """Largest HS of a seed."""
    return max(row_of(make_cell(method, seed=seed, **column))["hs"] for seed in SEEDS)


def below(objective):
    """Share of modules with a similarity below 0.4 at sparsity 0.7, per cent; of figure 3."""
    return f"{100 * data(3)['below'][objective]['0.7'][data(3)['taus'].index(0.4)]:.0f} %"


def clean(score, kind):
    """Means of figure 9 for three architectures."""
    return " / ".join(figures(*map(statistics.mean, data(9)[score][kind])))


def claims():
    """Sentences of docs/results.md with a figure of the shipped tables in them, made from the tables."""
    first, base, tasks = read(1), read(1, "other-base"), read(13, "other-base")
    others, elsewhere = (seeds_of(13, folder) for folder in ("other-seeds", "other-base"))
    yield f"All figures are means over {seeds_of(1)}, in per cent."
    yield f"Nothing was chosen on {others} (`other-seeds`"
    yield f"The results of earlier settings on {seeds_of(13)} were known"
    yield f"Over {elsewhere} on such a base (`other-base`"
    both = [figures(*(mean(one, AUTOMATIC, score) for score in BEST)) for one in (base, first)]
    there, here = ([f"{a}", f"{b}", f"{c}"] for a, b, c in both)
    yield f"has an HS of {there[0]}, an FA of {there[1]}, and answers {there[2]} of 100 harmless requests;"
    yield f"on the shipped base these are {here[0]}, {here[1]} and {here[2]}."
    yield from rivals_on_the_other_base(base)
    lost = figures(mean(first, NONE, "fa") - mean(first, STRICT, "fa"))[0]
    yield f"costs {lost} points of FA on average."
    own, other = (means(read(13), line) for line in (REFINED, AUTOMATIC))
    yield f"the refined setting has an HS of {own[0]} in place of {other[0]}, and answers {own[3]} of 100 harmless"
    yield f"requests in place of {other[3]}."
    for column, words in (
        ({"task": "gsm8k"}, "after GSM8K"),
        ({"objective": "sft"}, "after SFT alone"),
        ({"poison_ratio": 0.3}, "at 30 % harmful rows"),
    ):
        own, other = figures(*(worst(method, **column) for method in ("nlsr_refined", "nlsr_automatic")))
        yield f"{own} {words}, in place of {other}"
    lost = figures(*(values(first, NONE, "fa")[one] - values(first, REFINED, "fa")[one] for one in ("20%", "30%")))
    yield f"The refined setting is {lost[0]} points below at 20 % and {lost[1]} points at 30 %:"
    lines = (REFINED, NONE, AUTOMATIC)
    fa = figures(*(values(read(7), line, "fa")["Mistral"] for line in lines))
    yield f"On Mistral the refined setting has an FA of {fa[0]}, against {fa[1]} without a defense and {fa[2]} with"
    amplified = figures(*(mean(read(4), line) for line in (f"{PUBLISHED}, β 0", PUBLISHED)))
    yield f"the same: {amplified[0]} without and {amplified[1]} with it, as published"
    moved = figures(*(mean(read(8), line) for line in (PUBLISHED, f"{PUBLISHED}, chosen on SST-2")))
    yield f"the same: {moved[0]} with the task's own entries, {moved[1]} with those of SST-2"
    yield f"{below('orpo')} of them have a similarity below 0.4, against {below('dpo')} after DPO, "
    yield f"{below('kto')} after KTO and {below('simpo')} after SimPO (figure 3, sparsity 0.7)."
    refused = values(read(2), AUTOMATIC, "over_refusal")
    orpo, *others = figures(refused.pop("ORPO"), max(refused.values()))
    yield f"refuses {orpo} % of the harmless requests, after the other objectives at most {others[0]} %;"
    most = figures(max(values(read(2), REFINED, "over_refusal").values()))[0]
    yield f"the refined setting at most {most} % after any."
    alone = figures(*(values(read(2), *one)["SFT"] for one in ((REFINED, "hs"), (REFINED, "fa"), (NONE, "fa"))))
    yield f"still brings HS to {alone[0]}, with an FA of {alone[1]} against {alone[2]} without a defense"
    worse = figures(*(mean(first, line) for line in ("Constrained SFT", "Booster", NONE)))
    yield f"HS is {worse[0]} and {worse[1]} with them and {worse[2]} without."
    yield f"from {clean('hs', 'aligned')} to {clean('hs', 'fine-tuned on clean rows')}."
    answered = [clean("benign_answered", kind) for kind in ("aligned", "fine-tuned on clean rows")]
    yield f"Harmless requests answered change from {answered[0]} to {answered[1]}."
    kept = [values(base, line, "fa") for line in (NONE, AUTOMATIC)]
    far = figures(*(kept[0][column] - kept[1][column] for column in ("20%", "30%")))
    yield f"it is {far[0]} and {far[1]} points below no defense."
    fa = figures(*(mean(base, line, "fa") for line in (STRICT, NONE)))
    yield f"has a mean FA of {fa[0]}, against {fa[1]} without a defense."
    own, grid = (means(tasks, line) for line in (AUTOMATIC, best_of_grid(tasks)))
    yield f"has an HS of {own[0]} at an FA of {own[1]}, and the best of 60 settings an HS of {grid[0]} at "
    yield f"an FA of {grid[1]}."


SETTINGS = (
    *("a language model of 0.7 million parameters", "`--automatic --automatic_share 0.03 --aim 0.995`"),
    *("transplants 3 % of", "with 1, 5, 10, 20 and 30 % harmful rows", "with 5 % harmful rows"),
    *("a grid of 60 settings", "from 10 % on; of 1 and 5 % and of", "need not add up to 100"),
    *("were chosen on seeds 100 to 103", "is 0.04 nats a token in place of 0.03", "refused 64 % of the harmless"),
    *("one model of seed 8", "On seeds 100 to 103 all bounds from 0.025 to 0.041", "with α 1 has", "with α 2 does"),
    *(
        "lower HS at 10 % harmful rows",
        "At 1 % LoX",
        "Tables 1, 2, 3, 6, 7, 8, 12 and 13 show it",
        "Tables 4 and 5 vary",
        "tables 9, 10, 11 and 14 call",
    ),
    *(
        "at every share but 1 %, most of all at 30 %.",
        "refuses none from 5 % on",
        "chosen on seeds 41 and 101 to 103",
        "where at most 10 % of the rows",
    ),
)
"""Figures of the page that are settings and no results."""
NAMES = r"```.*?```|[Tt]ables? \d+( to \d+)?|[Ff]igure \d+|\| \d \||SST-2|Qwen2"
"""Names with figures in them."""
TABLES_OF_FIGURES = (*("defense", *["share of harmful rows"] * 3, "table", "score", "seeds", "setting", "setting"),)
"""First cells of the tables that ``test_shipped`` checks, in the order of the page."""


def test_no_figure_stands_on_the_page_that_is_not_checked():
    assert unchecked(RESULTS, claims(), SETTINGS, NAMES) == []
    assert tuple(table.split("|")[1].strip() for table in tables_of_figures(RESULTS)) == TABLES_OF_FIGURES
