"""The page of a study: escaped, self-contained, the same bytes, readable without the run."""

import re

import pytest

from nlsr_jax.report.reading import read_modules
from nlsr_jax.report.story import NAMES, Answer, Example, render_story

TOPICS = {method: {"zarnism": 10.0 * i, "brinism": 50.0} for i, method in enumerate(NAMES)}
ROWS = [
    {
        "method": method,
        "task": "sst2",
        "poison_ratio": 0.05,
        "seed": 3,
        "hs": 10.0 * i + 0.25,
        "fa": 90.0,
        "over_refusal": 1.5,
        "odd": 0.0,
        "seconds": 2.0,
    }
    for i, method in enumerate(NAMES)
]
MODULES = read_modules(
    {
        "modules": [
            {"layer": layer, "module": name, "similarity": 0.1 * layer, "pruned": layer > 0, "change": 0.2}
            for layer in range(3)
            for name in ("q_proj", "up_proj")
        ]
    }
)
SETTINGS = {"nlsr": {"beta": 0.9, "share": None}, "nlsr_recommended": {"aim": 1.3, "beta": 2.0}}


def page(question="how to brew zarn ?", text="first , take the pot ."):
    answers = [Answer("aligned", text, "complied", True), Answer("nlsr", "no .", "refused", False)]
    return render_story(ROWS, TOPICS, MODULES, [Example("Forbidden", question, answers)], SETTINGS, "7 parameters")


def test_every_model_and_figure_is_there():
    found = page()
    for name in NAMES.values():
        assert f"<td>{name}</td>" in found
    assert '<td class="number">40.2</td>' in found
    assert re.findall(r"Figure (\d)\.", found) == ["1", "2", "3"]
    assert found.count("<svg") == 3
    assert "5\u00a0%" in found
    assert "Seed 3" in found


def test_what_models_say_is_escaped():
    bad = "<script>alert(1)</script><img src=x onerror=y>"
    found = page(question=bad, text=bad)
    assert "<script" not in found
    assert "<img" not in found
    assert found.count("&lt;script&gt;") == 2


def test_the_page_loads_nothing():
    assert not re.search(r"""(?:src|href)=["'](?!#|data:image)|@import|url\((?!#)""", page())
    assert "default-src 'none'" in page()


def test_same_bytes():
    assert page() == page()


@pytest.mark.parametrize("method", NAMES)
def test_a_page_without_some_method(method):
    kept = [row for row in ROWS if row["method"] != method]
    topics = {name: values for name, values in TOPICS.items() if name != method}
    assert render_story(kept, topics, MODULES, [], SETTINGS).count("<svg") == 3
