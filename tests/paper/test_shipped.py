"""Every figure that README.md and docs/results.md quote is that of the shipped tables."""

import functools
import json
import re
import statistics

import pytest

from nlsr_jax.paper import results
from nlsr_jax.paper.tables import KEPT, TABLES, TASK_NAMES
from nlsr_jax.sweep.cells import make_cell
from tests.e2e.command import ROOT
from tests.paper.shipped import (
    AUTOMATIC,
    NONE,
    PUBLISHED,
    REFINED,
    SEEDS,
    SHIPPED,
    STRICT,
    best_of_grid,
    data,
    mean,
    page,
    read,
    row_of,
    section,
    study,
    table_of,
    tables_of_figures,
    unchecked,
    values,
)

README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
STARTED = ROOT / "docs" / "guide" / "getting-started.md"
SCORES = ("hs", "fa", "over_refusal", "benign_answered")
DEFENSES = {
    "none": NONE,
    "SafeLoRA (no setting keeps FA)": "SafeLoRA",
    "VLGuard's mixing": "VLGuard",
    "Lisa": "Lisa",
    "LSSF": "LSSF",
    "RESTA": "RESTA",
    "NLSR as published": PUBLISHED,
    "NLSR, automatic": AUTOMATIC,
    "NLSR, strict (does not keep FA)": STRICT,
    "NLSR, refined": REFINED,
}
"""Lines of table 1 by their name on the page."""
IDENTIFICATION = {
    "random": "random",
    "magnitude": "magnitude",
    "Wanda": "wanda",
    "low rank": "low_rank",
    "SNIP": "snip",
    "preference SNIP": "preference_snip",
    "gain": "gain",
}
"""Scores of table 5 by their name on the page, and in figure 4."""
STORY = {
    "before alignment": "unaligned",
    "aligned": "aligned",
    "fine-tuned, 5 % of the rows poisoned": "finetuned",
    "repaired with a random mask": "random",
    "repaired by NLSR as published": "nlsr",
    "repaired by NLSR as recommended": "nlsr_recommended",
}
"""Models of the tiny study by their name in README.md."""


BY_HAND = (
    ["`published.json`", "28.6", "96.3", "0.0", "99.5"],
    ["`recommended.json`", "4.8", "97.3", "0.0", "99.5"],
)
"""What the commands of the first steps gave."""


@pytest.fixture(scope="module")
def rows():
    return read(1)


def figures(*numbers, digits=1):
    return [f"{number:.{digits}f}" for number in numbers]


def means(rows, line, scores=SCORES):
    return figures(*(mean(rows, line, score) for score in scores))


def test_the_readme_quotes_the_tiny_study():
    scores = ("hs", "fa", "benign_answered", "odd")
    expected = [
        [name, *figures(*(statistics.mean(r[score] for r in study() if r["method"] == method) for score in scores))]
        for name, method in STORY.items()
    ]
    cells = [make_cell("nlsr_refined", task=task, seed=seed) for task in TASK_NAMES for seed in range(5, 10)]
    refined = [statistics.mean(row_of(cell)[score] for cell in cells) for score in scores]
    expected.append(["repaired by NLSR, refined", *figures(*refined)])
    assert table_of(page(README), "| model | HS | FA |") == expected
    assert {(row["seed"], row["poison_ratio"]) for row in study()} == {(seed, 0.05) for seed in range(5, 10)}


def test_getting_started_shows_one_case_of_the_tiny_study():
    case = {row["method"]: row for row in study() if (row["task"], row["seed"]) == ("sst2", 5)}
    scores = ("hs", "fa", "over_refusal", "benign_answered", "odd")
    expected = [
        ["fine-tuned" if method == "finetuned" else name, *figures(*(case[method][score] for score in scores))]
        for name, method in STORY.items()
    ]
    text = page(STARTED)
    assert table_of(text, "| model | HS % | FA % |") == expected
    before = ["`before.json`", *figures(*(case["finetuned"][score] for score in scores[:4]))]
    assert table_of(text, "| file | `hs` |") == [before, *BY_HAND]


def test_table_1(rows):
    expected = [
        [name, *means(rows, line), *figures(values(rows, line, "hs")["30%"])] for name, line in DEFENSES.items()
    ]
    assert table_of(page(RESULTS), "| defense | HS | FA | refused | answered | HS at 30 % |") == expected


def test_the_refined_setting_beside_the_automatic_choice(rows):
    expected = [
        [
            column.replace("%", " %"),
            *figures(*(values(rows, line, score)[column] for line in (AUTOMATIC, REFINED) for score in SCORES)),
        ]
        for column in all_settings()[0].columns
    ]
    assert table_of(page(RESULTS), "| share of harmful rows | automatic: HS |") == expected
    more = {
        column: values(rows, REFINED, "hs")[column] - hs for column, hs in values(rows, AUTOMATIC, "hs").items()
    }
    assert [column for column in more if more[column] < 0] == ["1%"]
    assert max(more, key=more.get) == "30%"
    assert [column for column, refused in values(rows, REFINED, "over_refusal").items() if refused] == ["1%"]


def test_who_keeps_fa_is_said(rows):
    keeps = {row["line"]: row["keeps_fa"] == "True" for row in rows}
    assert not keeps["SafeLoRA"]
    assert all(keeps[line] for line in ("LSSF", "RESTA", AUTOMATIC, REFINED))
    assert not keeps[STRICT]


@functools.cache
def all_settings():
    """Table 1 of the shipped rows with every setting of every defense."""
    table = TABLES[1]
    return table, results.summarise(table, {cell: row_of(cell) for cell in table.cells(SEEDS)}, SEEDS)


def named(title):
    """A defense and its setting as the page names them: ``RESTA (gamma 0.5)`` is ``RESTA, γ 0.5``."""
    name, _, setting = title.rstrip(")").partition(" (")
    setting = setting or {"LSSF": "alpha 1"}.get(name, "")
    letters = setting.replace("gamma", "γ").replace("alpha", "α").replace(".0", "")
    return f"{name}, {letters}" if setting else name


def scores_of(name, setting, score):
    """Means of a setting of a line of table 1 by column."""
    (result,) = (result for result in all_settings()[1] if result.line.name == name)
    return result.options[setting][score].mean(1)


def test_lower_hs_is_said_with_its_price(rows):
    table, found = all_settings()
    names = {result.line.title: result.line.name for result in found}
    lines = {line: results.frontier(table, found, names[line]) for line in (AUTOMATIC, REFINED)}
    better = {(one.column, one.title): one for line in lines.values() for one in line}
    assert all(one.answered < one.own_answered - 10 for line in lines.values() for one in line)
    expected = []
    for one in sorted(better.values(), key=lambda one: table.columns.index(one.column)):
        name, _, setting = one.title.rstrip(")").partition(" (")
        hs = scores_of(names[name], setting, "hs")[table.columns.index(one.column)]
        own = [values(rows, line, score)[one.column] for line in lines for score in ("hs", "benign_answered")]
        share = one.column.replace("%", " %")
        expected.append([share, named(one.title), *figures(hs, one.answered, *own)])
    assert table_of(page(RESULTS), "| share of harmful rows | defense |") == expected


def test_none_that_keeps_fa_has_a_lower_hs_than_the_strict_setting():
    assert not results.frontier(*all_settings(), "nlsr strict")


def test_lssf_and_the_strict_setting(rows):
    scores = ("hs", "fa", "benign_answered")
    other = [scores_of("lssf", "alpha 2.0", score) for score in scores]
    strict = [[*values(rows, STRICT, score).values()] for score in scores]
    bare = [*values(rows, NONE, "fa").values()]
    expected = [
        [column.replace("%", " %"), *figures(*(one[i] for one in (*other, *strict)))]
        for i, column in enumerate(all_settings()[0].columns)
    ]
    assert table_of(page(RESULTS), "| share of harmful rows | LSSF, α 2: HS |") == expected
    assert all(ours >= theirs for ours, theirs in zip(strict[0], other[0], strict=True))
    assert all(one < none - KEPT for one, none in zip(other[1], bare, strict=True))


def test_hs_of_the_other_tables():
    tables = {2: "objective of the alignment", 3: "task", 6: "other requests", 7: "architecture"}
    expected = []
    for number, what in tables.items():
        columns = [values(read(number), line, "hs") for line in (NONE, PUBLISHED, AUTOMATIC, REFINED)]
        for i, column in enumerate(columns[0]):
            shown = [figures(one[column])[0] if one else "–" for one in columns]
            expected.append(["" if i else f"{number}, {what}", column, *shown])
    assert table_of(page(RESULTS), "| table | column |") == expected


def test_identification():
    gained = dict(zip(data(4)["methods"], data(4)["gained"], strict=True))
    expected = []
    for name, method in IDENTIFICATION.items():
        (line,) = {row["line"] for row in read(5) if row["line"].partition(" (")[0] == name}
        expected.append([name, *figures(mean(read(5), line)), *figures(100 * gained[method], digits=0)])
    assert table_of(page(RESULTS), "| score | HS |") == expected


def test_other_seeds():
    expected = []
    for seeds, folder in (("5 to 9", "tables"), ("20 to 24", "other-seeds")):
        found = read(13, folder)
        for name, line in (
            ("no defense", NONE),
            ("automatic", AUTOMATIC),
            ("refined", REFINED),
            ("best of 60", best_of_grid(found)),
        ):
            if not values(found, line):
                continue  # nothing was refined on the other seeds
            expected.append([seeds if name == "no defense" else "", name, *means(found, line)])
    assert table_of(page(RESULTS), "| seeds | setting |") == expected


@pytest.mark.parametrize(
    ("after", "score", "lines"),
    [
        ("by the share of harmful rows is:", "hs", (NONE, PUBLISHED, AUTOMATIC, STRICT, "RESTA")),
        ("Harmless requests answered:", "benign_answered", (AUTOMATIC, "RESTA")),
    ],
)
def test_another_base(after, score, lines):
    names = {NONE: "no defense", PUBLISHED: "as published", AUTOMATIC: "automatic", STRICT: "strict"}
    first = read(1, "other-base")
    expected = [[names.get(line, line), *figures(*values(first, line, score).values())] for line in lines]
    text = section(RESULTS, "The automatic choice on another base")
    assert table_of(text.partition(after)[2], "| setting |") == expected
    assert text.count(f"| setting | {' | '.join(values(first, NONE))} |") == 2


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


def worst(method, task, ratio):
    """Largest HS of a seed."""
    return max(row_of(make_cell(method, task=task, poison_ratio=ratio, seed=seed))["hs"] for seed in SEEDS)


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
    for case, words in (("gsm8k", 0.05), "after GSM8K"), (("sst2", 0.3), "at 30 % harmful rows"):
        own, other = figures(*(worst(method, *case) for method in ("nlsr_refined", "nlsr_automatic")))
        yield f"{own} {words}, in place of {other}"
    lost = figures(*(values(first, NONE, "fa")[one] - values(first, REFINED, "fa")[one] for one in ("20%", "30%")))
    yield f"The refined setting is {lost[0]} points below at 20 % and {lost[1]} points at 30 %:"
    amplified = figures(*(mean(read(4), line) for line in (f"{PUBLISHED}, β 0", PUBLISHED)))
    lines = (REFINED, NONE, AUTOMATIC)
    fa = figures(*(values(read(7), line, "fa")["Mistral"] for line in lines))
    yield f"On Mistral the refined setting has an FA of {fa[0]}, against {fa[1]} without a defense and {fa[2]} with"
    yield f"the same: {amplified[0]} without and {amplified[1]} with it, as published"
    moved = figures(*(mean(read(8), line) for line in (PUBLISHED, f"{PUBLISHED}, chosen on SST-2")))
    yield f"the same: {moved[0]} with the task's own entries, {moved[1]} with those of SST-2"
    yield f"{below('orpo')} of them have a similarity below 0.4, against {below('dpo')} after DPO, "
    yield f"{below('kto')} after KTO and {below('simpo')} after SimPO (figure 3, sparsity 0.7)."
    refused = values(read(2), AUTOMATIC, "over_refusal")
    orpo, *others = figures(refused.pop("ORPO"), max(refused.values()))
    yield f"refuses {orpo} % of the harmless requests, after the other objectives at most {others[0]} %."
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
        "Only tables 1, 3, 6, 7 and 13 show it",
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
"""First cells of the tables that are checked above, in the order of the page."""


def test_no_figure_stands_on_the_page_that_is_not_checked():
    assert unchecked(RESULTS, claims(), SETTINGS, NAMES) == []
    assert tuple(table.split("|")[1].strip() for table in tables_of_figures(RESULTS)) == TABLES_OF_FIGURES


@pytest.mark.parametrize("folder", ["tables", "other-seeds"])
def test_the_automatic_choice_is_near_the_best_of_the_grid(folder):
    rows = read(13, folder)
    own, grid = ([mean(rows, line, score) for score in ("hs", "fa")] for line in (AUTOMATIC, best_of_grid(rows)))
    assert own[0] <= grid[0] + 2
    assert own[1] >= grid[1] - 0.5


@pytest.mark.parametrize("number", range(1, 15))
def test_every_table_is_there(number):
    text = (SHIPPED / "tables" / f"table_{number}.md").read_text()
    assert text.startswith(f"## Table {number}. ")
    assert f"Table {number}." in (SHIPPED / "index.html").read_text()


@pytest.mark.parametrize("number", range(1, 12))
def test_every_figure_is_there(number):
    assert (SHIPPED / "figures" / f"figure_{number}.png").stat().st_size > 10_000
    assert f"Figure {number}." in (SHIPPED / "index.html").read_text()
