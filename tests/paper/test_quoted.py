"""README.md, docs/holdings.md, docs/benchmarks.md and the first steps: no figure stands there unaccounted for."""

import collections
import functools
import json
import statistics

from benchmarks.table import WHOLE_FILE, read_results, replace, tables
from nlsr_jax.calibration.asking import ASKED
from nlsr_jax.study.situations import SITUATIONS
from nlsr_jax.sweep import holdings_means
from nlsr_jax.sweep.holdings import SHARES
from nlsr_jax.sweep.holdings_means import aims, best_settings, means
from tests.e2e.command import ROOT
from tests.paper.shipped import README, STARTED, page, study, table_of, tables_of_figures, unchecked

HOLDINGS, BENCHMARKS = ROOT / "docs" / "holdings.md", ROOT / "docs" / "benchmarks.md"
RECORDED = ROOT / "benchmarks" / "results"
COUNTS = {3: "three", 5: "five"}
CODE = r"```.*?```|"
NAMES = CODE + r"(?<= )\d\. |`[^`]*`|SHA-256|Apache-2\.0|bfloat16|float(32|64)|Llama-3-8B|Phi-3|OLMo 2"
"""Names with figures in them, code, and the numbers of lists."""
README_SETTINGS = (
    *("of which 5 % are harmful", "AAAI 2025, arXiv 2412.12497", "Python 3.11, 3.12 or 3.13"),
    "/tiny-llama3/README.md",
)
STARTED_SETTINGS = ("Python 3.11, 3.12 or 3.13", "about 3 GB", "of which 5 % comply", "(for seed 5, the default)")


@functools.cache
def rows_in(name):
    """Rows of a shipped file of holdings."""
    return json.loads((ROOT / "checkpoints" / "tiny-holdings" / name).read_text(encoding="utf-8"))


def holdings():
    """Rows of the shipped table of holdings."""
    return rows_in("table.json")


def peers():
    """Rows of the shipped table of other repairs."""
    return rows_in("peers.json")


def of(rows, situation, method):
    """Those of a situation and a method."""
    return [row for row in rows if (row["situation"], row["method"]) == (situation, method)]


def readme_claims():
    """What README.md says of the rows of the tiny study outside its table."""
    seeds, tasks = ({row[name] for row in study()} for name in ("seed", "task"))
    yield f"Over {COUNTS[len(seeds)]} seeds and {COUNTS[len(tasks)]} tasks it gives"


def test_the_readme():
    assert unchecked(README, readme_claims(), README_SETTINGS, NAMES) == []
    assert len(tables_of_figures(README)) == 1


def listed(names):
    """Names as a sentence lists them."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def case_of(row):
    """Task, share of harmful rows and seed."""
    return row["task"], row["poison_ratio"], row["seed"]


def holdings_claims():
    """What docs/holdings.md says of its rows."""
    ratios = sorted({row["poison_ratio"] for row in holdings()})
    yield f"{' or '.join(f'{100 * ratio:g}' for ratio in ratios)} % of the customer's rows are harmful."
    cases = {case_of(row) for row in holdings()}
    tasks, seeds = (listed(sorted({str(case[i]) for case in cases})) for i in (0, 2))
    yield f"There are {len(cases)} cases: the tasks {tasks} with the seeds {seeds}."
    yield f"should bring HS to {holdings_means.LARGEST_HS:g} or below in the mean"
    yield f"keep FA within {holdings_means.LARGEST_FA:g} point"
    yield f"answered within {holdings_means.LARGEST_BENIGN:g} points of the fine-tuned model"
    yield f"lose more than {holdings_means.LARGEST_CASE:g} points of these answers"
    found = of(holdings(), "instruct", "refined")
    (strength,), taken = {row["strength"] for row in found}, [100 * row["share"] for row in found]
    yield f"a fresh adapter is repaired with strength {strength:g}"
    yield f"and {min(taken):.1f} to {max(taken):.1f} % of them are enough"
    before = {case_of(row): row["fa"] for row in of(holdings(), "instruct", "finetuned")}
    plain = of(rows_in("strength_1.json"), "instruct", "refined")
    taken, lost = [100 * row["share"] for row in plain], [row["fa"] - before[case_of(row)] for row in plain]
    yield f"With strength 1 the refinement took {min(taken):.1f} to {max(taken):.0f} % of the entries"
    mean, worst = (f"{value:.1f}".replace("-", "−") for value in (statistics.fmean(lost), min(lost)))
    yield f"and FA changed by {mean} ({worst} in the worst case)"
    found = of(holdings(), "instruct_pretrained", "refined")
    yield f"about {statistics.fmean(100 * row['share'] for row in found):.0f} % is taken"
    found = {(row["method"], row["situation"], *case_of(row)): row["share"] for row in holdings()}
    kept = [case for case in found if case[0] == KEPT]
    ((_, situation, _, ratio, _),) = [case for case in kept if found[case] != found["refined", *case[1:]]]
    assert situation == "instruct_pretrained"
    yield f"share in 1 of the {len(kept)} cases, a fresh adapter with the pretrained model and {100 * ratio:g} %"
    yield f"asks {ASKED} unlabelled prompts of the task"
    shares = sorted({row["share"] for row in holdings() if row["method"] == "gain"})
    assert set(shares) <= set(SHARES)
    yield f"with β 1 and 2, {' and '.join(f'{100 * share:g}' for share in shares)} % refuse harmless requests too."


KEPT = "refined_kept"


def test_other_repairs_had_the_same_cases_and_as_many_settings_each():
    cases, settings = collections.defaultdict(set), collections.defaultdict(set)
    for row in peers():
        cases[row["method"]].add(case_of(row))
        settings[row["method"]].add(row.get("setting"))
    assert set(map(frozenset, cases.values())) == {frozenset(map(case_of, holdings()))}
    others = {name: len(found) for name, found in settings.items() if found != {None}}
    assert others == {"safelora": 5, "resta": 5, "safemerge": 5, "lssf": 5}
    same = {(row["method"], *case_of(row)): row for row in holdings() if row["situation"] == "instruct_pretrained"}
    for row in peers():
        if row["method"] in ("aligned", "finetuned", "refined"):
            known = same[row["method"], *case_of(row)]
            assert {name: row[name] for name in known if name != "seconds"} == {
                name: value for name, value in known.items() if name != "seconds"
            }


def test_the_page_of_holdings():
    assert means(holdings()) in page(HOLDINGS)
    shown = [(name, way) for name in SITUATIONS if SITUATIONS[name].refines for way in ("refined", KEPT)]
    assert aims(holdings(), [*shown, ("weights", "β 1, 3 %")]) in page(HOLDINGS)
    (directed,) = {row["situation"] for row in peers()}
    best = [(directed, name) for name in best_settings(peers(), directed)]
    assert aims(peers(), [(directed, "refined"), *best]) in page(HOLDINGS)
    others = {f"{row['method']} {row['setting']:g}" for row in peers() if row.get("setting") is not None}
    assert all("| all |" not in line for line in aims(peers(), [(directed, one) for one in others]).splitlines())
    assert means(peers()) in page(HOLDINGS)
    settings = ("Their recommended share, 3 % with β 1,", "one case of seed 41")
    assert unchecked(HOLDINGS, holdings_claims(), settings, NAMES) == []


def test_the_first_steps():
    assert unchecked(STARTED, (), STARTED_SETTINGS, NAMES) == []


MEASURED = (
    *("a ratio above 1 means", "a GPU with 80 GB", "over 2000 × 256 tokens"),
    "A product of 70 microseconds then takes 110.",
    *("a training step 3 to 8 % faster", "an adapter of rank 8", "(1.1 B parameters, 22 layers, bfloat16, random)"),
    *(
        "8 rows of 64 tokens",
        "Streaming took 0.95 to 1.01 times as long",
        "491 MB are the interpreter",
        "a base of width 64",
        "three layers (264 MB)",
    ),
    *("(1.1 B parameters, 22 layers, bfloat16) with an adapter of rank 128", "rows of 64 tokens in batches of 16"),
    *(
        "1 is linear, 0 is flat",
        "vary at 2 layers, layers at 16 rows, the rank at 32. The rows start at 32:",
        "takes 2 n k d operations",
    ),
    *("2 n r (k + d) for the factors", "the factors of rank 128", "0.26 MB a row"),
    "over all 22 layers at rank 128 with 32 rows",
    *("The other 303 MB", "the embedding (131 MB)", "the inputs of the layers (24 MB)", "the logits (66 MB)"),
)
"""Figures of docs/benchmarks.md that no file records."""
STREAMED = (
    ["in memory", "22.1 s", "31.9 s", "3.15 GB"],
    ["`--stream`", "21.0 s", "32.8 s", "0.794 GB"],
    ["`--stream` in a control group of 1.5 GiB", "20.1 s", "31.8 s", "0.801 GB"],
)
"""What ``python -m benchmarks.streaming`` printed."""


def whole_claims():
    """What docs/benchmarks.md says of whole commands."""
    found = read_results(RECORDED / WHOLE_FILE)
    refined, published = found["realign_recommended"], found["realign_published"]
    first, other = (found[f"realign_{name}_cold"]["over_warm"] for name in ("recommended", "published"))
    yield f"SmolLM2-135M, float32, with {refined['rows']} calibration rows"
    yield f"it takes {first:.1f} s longer for the refined realignment, and {other:.1f} s for the published one"
    narrow = found["realign_recommended_bfloat16"]
    rates = [one["limit_of"].split()[2] for one in (narrow, refined)]
    yield f"takes {narrow['ours']:.1f} s in place of {refined['ours']:.1f}"
    yield f"that of PyTorch {narrow['peer']:.0f} s in place of {refined['peer']:.0f}"
    yield f"first run takes {found['realign_recommended_cold_bfloat16']['over_warm']:.1f} s longer"
    yield f"Products run at {rates[0]} in place of {rates[1]} GFLOP/s"
    yield f"take {found['safelora']['peer']:.1f} and {found['resta']['peer']:.1f} s"
    first, other = (one["peer"] / one["limit_s"] for one in (refined, published))
    yield f"it is {first:.1f} times shorter than the time of the PyTorch program, and {other:.1f} times for the"


def test_the_page_of_benchmarks():
    for name, made in tables(RECORDED).items():
        assert replace(page(BENCHMARKS), made, name) == page(BENCHMARKS), (
            "run python -m benchmarks.table docs/benchmarks.md"
        )
    assert table_of(page(BENCHMARKS), "| run | time |") == [*STREAMED]
    assert unchecked(BENCHMARKS, whole_claims(), MEASURED, NAMES) == []
    assert len(tables_of_figures(BENCHMARKS)) == 7
