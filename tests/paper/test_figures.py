"""The figures drawn from made-up numbers: everything that is named is there, and the same bytes come again."""

import dataclasses
import json
import re
import shutil

import matplotlib.image
import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.paper import analyses, figures, publishing, skills
from nlsr_jax.paper.figures import FIGURES, Asked, get_figure
from nlsr_jax.paper.generations import GENERATIONS
from nlsr_jax.paper.results import summarise
from nlsr_jax.paper.tables import get_table
from nlsr_jax.report.story import Answer, Example
from tests.paper.rows import SEEDS, made_up
from tests.paper.shipped import SHIPPED

RNG = np.random.default_rng(0)
METHODS = list(analyses.METHODS)
MADE_UP = {
    "similarities": {
        "taus": list(analyses.TAUS),
        "below": {
            objective: {str(s): np.linspace(0, s, len(analyses.TAUS)).tolist() for s in analyses.SPARSITIES}
            for objective in analyses.OBJECTIVES
        },
        "by_layer": {str(s): [s] * 6 for s in analyses.SPARSITIES},
    },
    "identification": {
        "methods": METHODS,
        "overlap": RNG.random((7, 7)).tolist(),
        "overlap_chance": 0.2,
        "agreement": RNG.random((7, 7)).tolist(),
        "agreement_chance": 0.5,
        "gained": RNG.random(7).tolist(),
    },
    "depth": {m: {"attention": [0.1] * 6, "feed_forward": [0.2] * 6} for m in ("low_rank", "gain")},
    "probes": {m: {"svm": [0.5] * 7, "mlp": [0.9] * 7} for m in ("aligned", "finetuned", "nlsr")},
}
NAMES = {
    1: ["fine-tuned", "realigned by NLSR", "amplify", "HS 60 %, FA 90 %"],
    2: ["aligned adapter Wₐ", "2 identify", "3 restore"],
    3: ["threshold τ of the similarity", "modules below τ, %", "KTO", "SimPO", "sparsity 0.9", "decoder layer"],
    4: ["low rank", "preference SNIP", "(chance 20)", "(chance 50)", "of all gain, %"],
    5: ["amplification β", "HS", "over-refusal", "all modules repaired"],
    6: ["sparsity P_SR", "β 0.9", "no repair", "FA, %"],
    7: ["sparsity P_SR", "AG News", "GSM8K", "over-refusal"],
    8: ["repaired decoder layers", "0 to 1", "SST-2", "HS, %"],
    9: ["architecture of the base", "Mistral", "fine-tuned on clean rows", "harmless requests answered, %"],
    10: ["topic", "one", "two", "NLSR, automatic"],
    11: ["requests told apart, %", "aligned, linear SVM", "kept entries, %", "feed-forward", "gain"],
}


def score(cell):
    return 60.0 if cell.method == "finetuned" else 20.0 + cell.seed, 90.0, 1.0


class Fake(Asked):
    """Rows by rule in place of a store."""

    def row(self, cell, key):
        cells = [dataclasses.replace(cell, seed=s) for s in self.seeds]
        return [made_up([one], score)[one][key] for one in cells]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(figures, "analyse", lambda runner, name, seeds: MADE_UP[name])


def texts(svg):
    return [re.sub(r"<[^>]+>", "", text) for text in re.findall(r"<text.*?</text>", svg, re.S)]


@pytest.mark.parametrize("number", FIGURES)
def test_every_figure_is_drawn_with_its_words_and_units(tmp_path, number):
    figure = get_figure(number)
    data = figure.gather(Fake(None, SEEDS))
    png = publishing.publish_figure(tmp_path, figure, data, SEEDS)
    svg = png.with_suffix(".svg").read_text()
    words = " ".join(text.strip() for text in texts(svg))
    for name in NAMES[number]:
        assert name in words, name
    height, width = matplotlib.image.imread(png).shape[:2]
    assert width >= 1200
    assert height >= 400
    page = json.loads(png.with_suffix(".json").read_text())
    assert page["data"] == json.loads(json.dumps(data))
    assert "{" not in page["caption"]
    assert len(page["caption"].split()) > 15


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    figure = get_figure(8)
    data = figure.gather(Fake(None, SEEDS))
    paths = [publishing.publish_figure(tmp_path / name, figure, data, SEEDS) for name in ("one", "two")]
    for ending in (".png", ".svg", ".json"):
        first, second = (path.with_suffix(ending).read_bytes() for path in paths)
        assert first == second


def test_there_is_no_other_figure():
    with pytest.raises(InputError, match="figure 12 is not in the paper; expected 1 to 11"):
        get_figure(12)


def test_skills_become_a_table(tmp_path):
    found = {"unaligned": {"skill_sst2": 100.0, "skill_ag_news": 99.5, "skill_gsm8k": 96.0}}
    part = skills.part(found)
    text = publishing.publish_part(tmp_path, skills.NUMBER, skills.TITLE, skills.note(SEEDS), part)
    assert "| model | SST-2 | AG News | GSM8K |" in text
    assert "| before alignment | 100.0 | 99.5 | 96.0 |" in text
    assert (tmp_path / "tables" / "table_14.csv").read_text().splitlines()[1] == "before alignment,100.0,99.5,96.0"
    assert "Table 14. Skills" in publishing.publish_page(tmp_path, "a world").read_text()


def test_the_page_gathers_what_is_there_and_escapes_what_models_say(tmp_path):
    table = get_table(8)
    rows = made_up(table.cells(SEEDS), score)
    publishing.publish_table(tmp_path, table, summarise(table, rows, SEEDS), SEEDS)
    figure = get_figure(10)
    publishing.publish_figure(tmp_path, figure, figure.gather(Fake(None, SEEDS)), SEEDS)
    answers = [Answer("aligned", "<script>alert(1)</script> | no", "refused", False)]
    examples = [Example("Forbidden", "how | now <b>", answers), Example("Task sst2", "a row", answers)]
    text = publishing.publish_generations(tmp_path, GENERATIONS[9], examples)
    assert "how \\| now <b>" in text
    assert "a row" not in text
    page = publishing.publish_page(tmp_path, "a world").read_text()
    for words in ("Table 8. From one task to another", "Figure 10. Topics", "Table 9.", "on a world", "25.5 ± 0.5"):
        assert words in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | no" in page
    assert page.count("<svg") == 1
    again = publishing.publish_page(tmp_path, "a world").read_text()
    assert again == page


@pytest.mark.parametrize("name", ["index.html", "tables/table_14.json", "figures/figure_10.png"])
def test_files_of_the_user_in_the_way_are_named_and_kept(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name}: --overwrite replaces only what nlsr_jax has written"):
        publishing.check_places(tmp_path, tables=[14], figures=[10])
    part = skills.part({"unaligned": {"skill_sst2": 100.0, "skill_ag_news": 99.5, "skill_gsm8k": 96.0}})
    figure = get_figure(10)

    def publish():
        publishing.publish_part(tmp_path, 14, skills.TITLE, skills.note(SEEDS), part)
        publishing.publish_figure(tmp_path, figure, figure.gather(Fake(None, SEEDS)), SEEDS)
        publishing.publish_page(tmp_path, "a world")

    with pytest.raises(InputError, match="replaces only what nlsr_jax has written, and this file is another one"):
        publish()
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    for _ in range(2):
        publish()
    publishing.check_places(tmp_path, tables=[14], figures=[10])


def test_the_page_shows_the_shipped_tables_and_figures(tmp_path):
    for part in ("tables", "figures"):
        shutil.copytree(SHIPPED / part, tmp_path / part)
    made = publishing.publish_page(tmp_path, "a toy world of invented, harmless words")
    assert made.read_text("utf-8") == (SHIPPED / "index.html").read_text("utf-8")
