"""Every table of README.md and docs/results.md is made of the shipped rows."""

import functools
import statistics

import pytest

from nlsr_jax.paper import results
from nlsr_jax.paper.tables import KEPT, TABLES, TASK_NAMES
from nlsr_jax.sweep.cells import make_cell
from tests.paper.shipped import (
    AUTOMATIC,
    NONE,
    PUBLISHED,
    README,
    REFINED,
    RESULTS,
    SCORES,
    SEEDS,
    SHIPPED,
    STARTED,
    STRICT,
    best_of_grid,
    data,
    figures,
    mean,
    means,
    page,
    read,
    row_of,
    section,
    study,
    table_of,
    values,
)

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
            shown = [figures(one[column])[0] for one in columns]
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
