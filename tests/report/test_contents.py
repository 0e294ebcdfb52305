"""What the page holds: the record's numbers, nothing it has to load, and no markup from the record."""

import html.parser
import re
import threading

import pytest

from nlsr_jax.adapter import MODULES
from nlsr_jax.errors import InputError
from nlsr_jax.report import render_report
from nlsr_jax.report.page import draw_figures
from nlsr_jax.report.svg import drawing
from tests.report.records import make_record

VOID = {"meta", "br", "hr", "img", "link", "input", "col"}
HOSTILE = '<script>alert("x")</script>\'"&\x07é' + "x" * 500


class Balanced(html.parser.HTMLParser):
    """Collect tags and check that they close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.loaded = [], 0, []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                self.loaded.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.mark.parametrize(("layers", "names"), [(32, MODULES), (16, ("q_proj", "v_proj")), (1, ("up_proj",))])
def test_numbers_are_those_of_the_record(layers, names):
    record = make_record(layers, names)
    page = render_report(record)
    parse(page)
    repaired = sum(not module["pruned"] for module in record["modules"])
    assert f"{repaired} of {layers * len(names)}" in re.sub(r"<[^>]*>|\s+", " ", page).replace("  ", " ")
    for name in names:
        assert name in page


def test_nothing_is_loaded_and_the_page_stays_small():
    page = render_report(make_record(80))
    parser = parse(page)
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in parser.loaded)
    assert len(page.encode()) < 2_000_000


def test_same_record_same_page():
    assert render_report(make_record(4)) == render_report(make_record(4))


def test_text_of_the_record_is_data():
    scripts = parse(render_report(make_record(2))).scripts
    record = make_record(2)
    record["warnings"] = [HOSTILE]
    record["settings"]["base"] = HOSTILE
    record["inputs"] = {"aligned": {"path": HOSTILE, "files": {HOSTILE: HOSTILE}}}
    record["outputs"] = {HOSTILE: HOSTILE}
    record["versions"] = {HOSTILE: HOSTILE}
    page = render_report(record)
    assert parse(page).scripts == scripts
    assert "<script>alert" not in page


def test_settings_and_modules_are_enough():
    record = make_record(2)
    page = render_report({"settings": record["settings"], "modules": record["modules"]})
    parse(page)


@pytest.mark.parametrize("missing", ["settings", "modules"])
def test_what_is_needed_is_named(missing):
    record = make_record(2)
    del record[missing]
    with pytest.raises(InputError, match=missing):
        render_report(record)


def lifted_record():
    """A record of a lifted run by gain, with what was measured."""
    record = make_record(4, ("q_proj", "up_proj"))
    for number, module in enumerate(record["modules"]):
        module |= {"change": 0.01 * (number + 1), "taken": 0.02, "similarity": 0.0, "pruned": False}
    ranks = {"own": 32, "direction": 16, "aligned": 16, "written": 24}
    record["lift"] = {
        "basis": "turned",
        "ranks": {"q_proj": ranks, "up_proj": ranks},
        "residual": {},
        "compression": {"rank": 24, "residual": {"q_proj": [0.1, 0.3], "up_proj": [0.1, 0.1]}},
    }
    record["settings"] |= {"rule": "all", "method": "gain", "granularity": "adapter", "basis": "turned"}
    record["lineage"] = {"product": 0.8, "kept": 0.9}
    return record


def test_a_lifted_run_shows_changes_and_no_similarity():
    page = render_report(lifted_record())
    parse(page)
    told = re.sub(r"<[^>]*>|\s+", " ", page.partition("<h2>Settings")[0].partition("</style>")[2])
    assert "similarity" not in told.lower()
    assert "8 % at most, in layer 3" in re.sub(" +", " ", told)
    assert "compressed to rank 24" in told
    assert {"figure-change", "figure-replaced", "figure-lineage"} <= set(re.findall(r'id="(figure-\w+)"', page))


@pytest.mark.parametrize("rule", ["all", "probability"])
def test_gain_in_one_lineage_shows_changes_where_they_were_recorded(rule):
    record = make_record(2)
    record["identification"]["method"] = record["settings"]["method"] = "gain"
    record["settings"]["rule"] = rule
    drawn = set(re.findall(r'id="figure-(\w+)"', render_report(record)))
    assert drawn == {"replaced", "masks", "lineage"} | ({"repair"} if rule == "probability" else set())


def test_figures_have_no_ground_of_their_own_and_experts_share_a_cell():
    record = lifted_record()
    record["refinement"] = {
        "trials": [{"share": share, "harmful": 0.9, "harmless": 0.0} for share in (0.01, 0.02)],
        "finetuned": {"harmful": 0.1, "harmless": 0.0},
        "aligned": {"harmful": 0.9, "harmless": 0.0},
        "share": 0.02,
        "recovered": 0.871,
    }
    few = draw_figures(record)
    assert set(few) == {"refinement", "change", "replaced", "masks", "lineage"}
    assert not [name for name, (_, svg) in few.items() if "#ffffff" in svg]
    up = [entry for entry in record["modules"] if entry["module"] == "up_proj"]
    for number in range(40):
        record["modules"] += [entry | {"module": f"mlp.experts.{number}.up_proj"} for entry in up]
    many = draw_figures(record)
    for name, (_, svg) in many.items():
        heights = [float(re.search(r'viewBox="0 0 \S+ (\S+)"', text)[1]) for text in (few[name][1], svg)]
        assert heights[1] < 1.2 * heights[0]
        assert name == "refinement" or "mlp.experts.*.up_proj" in svg
    page = render_report(record)
    assert "share a cell" in page
    assert "brings back 87.1 %" in " ".join(page.split())
    assert "chance of repair" not in page


def test_a_full_model_shows_its_fine_tuning_and_what_was_copied():
    record = lifted_record()
    del record["lift"], record["lineage"]
    record["settings"] |= {"aligned": None, "weak": None}
    record["weights"] = {"update": 0.092, "carried": {"count": 15, "bytes": 60, "changed": ["model.norm.weight"]}}
    told = re.sub(r"<[^>]*>|\s+", " ", render_report(record))
    assert re.search(r"size of the fine-tuning\s+9\.2 %", told)
    assert (
        "The other 15 tensors of the model, such as embeddings and norms, were copied unchanged; 1 of them differs"
        in told
    )


def test_one_thread_draws_at_a_time():
    """Matplotlib's style is state of the whole process."""
    order = []

    def draw():
        with drawing():
            order.append("second")

    other = threading.Thread(target=draw)
    with drawing():
        other.start()
        other.join(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
