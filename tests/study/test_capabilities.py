"""The tinyBenchmarks: how each is asked, which score it has, and that answers meet their items."""

import pickle

import numpy as np
import pytest

from experiments.bank_pickle import read_pickle
from nlsr_jax.data.sources import load
from nlsr_jax.data.tiny_sets import Question
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.item_bank import save_banks
from nlsr_jax.evaluation.tiny_benchmarks import estimate
from nlsr_jax.study import capabilities as benchmarks
from nlsr_jax.study.capabilities import BENCHMARKS, Asked, ask, load_benchmarks, read_banks, run_benchmarks
from nlsr_jax.study.stages import Base
from tests.data.set_rows import write
from tests.evaluation.machines import make_machine, make_tokenizer
from tests.evaluation.test_bank_files import published
from tests.tiny_items import SETS, bank_of, rows_of


def posed(name, folder, shots=""):
    """The question that a benchmark makes of its invented row."""
    rows = load(SETS[name], str(write(folder / "t.jsonl", rows_of(SETS[name], 1, shots))), template="none").rows
    return rows[0].prompt if name == "gsm8k" else BENCHMARKS[name].pose(rows[0])


MMLU = "The following are multiple choice questions (with answers) about zarn lore.\n\nbrew zarn\n"
EXPECTED = {
    "hellaswag": (("Brewing: brew zarn",), ("stir", "stir stir stir"), (False, True)),
    "mmlu": ((MMLU + "A. stir\nB. it\nAnswer:",), ("A", "B"), (False, True)),
    "truthfulqa": (("Q: brew zarn\nA:",), ("stir", "it", "zarn"), (True, False, True)),
    "winogrande": (("brew zarn", "brew it"), ("slowly stir", "slowly stir"), (False, True)),
    "arc": (("Question: brew zarn\nAnswer:",), ("stir", "it"), (False, True)),
}


def test_every_benchmark_has_a_case_here():
    assert {*EXPECTED, "gsm8k"} == set(BENCHMARKS) == set(SETS)
    assert {name: benchmark.data_set for name, benchmark in BENCHMARKS.items()} == SETS


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_without_examples(name, tmp_path):
    assert tuple(posed(name, tmp_path)) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in ("winogrande", "gsm8k")])
def test_the_sets_own_prompt_is_taken_as_it_is(name, tmp_path):
    assert posed(name, tmp_path, "Q: one\nA: two\n\nQ: three\nA:").contexts == ("Q: one\nA: two\n\nQ: three\nA:",)


def test_gsm8k_takes_the_sets_own_prompt(tmp_path):
    assert posed("gsm8k", tmp_path, "shots and it") == "shots and it"
    assert posed("gsm8k", tmp_path).startswith("brew zarn\n")


@pytest.mark.parametrize(
    ("shots", "start"),
    [
        ("one is done.\n\ntwo is done.\n\nbrew _ slowly stir", "one is done.\n\ntwo is done.\n\n"),
        ("one is done.\n\nbrew it slowly stir", "one is done.\n\n"),
        ("one is done.\n\nbrew", "one is done.\n\n"),
        ("brew _ slowly stir", ""),
        ("one is done.\n\ntwo is done.", "one is done.\n\ntwo is done.\n\n"),
        ("one is done.", "one is done.\n\n"),
    ],
)
def test_winogrande_keeps_the_examples_before_each_choices_own_context(shots, start, tmp_path):
    assert posed("winogrande", tmp_path, shots).contexts == (start + "brew zarn", start + "brew it")


def test_winogrande_gap_first():
    row = Question("_ was late.", ("Ana", "Tom"), 0, (0,), formatted="one.\n\n_ was late.")
    assert BENCHMARKS["winogrande"].pose(row).contexts == ("one.\n\nAna", "one.\n\nTom")
    assert BENCHMARKS["winogrande"].pose(row._replace(formatted="")).contexts == ("Ana", "Tom")


RULES = {"hellaswag": 1.0, "mmlu": 0.0, "truthfulqa": 0.75, "winogrande": 0.0, "arc": 0.0}
"""Of the log-likelihoods below: by bytes the second ending is likelier, else always the first."""


@pytest.mark.parametrize("name", RULES)
def test_every_benchmark_has_its_own_score(name, tmp_path, monkeypatch):
    rows = load(SETS[name], str(write(tmp_path / "t.jsonl", rows_of(SETS[name], 2)))).rows
    chances = {2: [0.6, 0.4], 3: [0.5, 0.25, 0.25]}

    def answer_choices(model, params, tokenizer, questions, **options):
        return [np.log(chances[len(question.choices)]) for question in questions]

    monkeypatch.setattr(benchmarks, "answer_choices", answer_choices)
    found = ask(Base(None, None, None), None, name, rows, batch_size=2)
    np.testing.assert_allclose(found, [RULES[name]] * 2)


@pytest.mark.parametrize(("lengths", "right"), [(("stir", "it is long"), 1.0), (("stir it now", "it"), 0.0)])
def test_arc_counts_by_length(lengths, right, monkeypatch):
    """``acc_norm`` and ``acc`` differ here: the first choice is likelier, by bytes the longer one."""
    monkeypatch.setattr(benchmarks, "answer_choices", lambda *given, **options: [np.log([0.6, 0.4])])
    row = Question("brew zarn", lengths, 1, (1,))
    assert ask(Base(None, None, None), None, "arc", [row], batch_size=1).tolist() == [right]


@pytest.fixture(scope="module")
def base():
    """Continues ``zarn`` with 3, then ``Question:``, then 9 for ever; ``it`` with 5."""
    tokenizer = make_tokenizer(["brew", "zarn", "stir", "it", "slowly", "3", "5", "9", "Question:", "Answer:"])
    table = {"zarn": {"3": 5.0}, "3": {"Question:": 5.0}, "Question:": {"9": 5.0}, "9": {"9": 5.0}}
    table |= {"it": {"5": 5.0, "stir": 2.0}, "5": {"</s>": 5.0}, "Answer:": {"stir": 1.0}}
    return Base(*make_machine(tokenizer, table), tokenizer)


def test_numbers_are_read_before_the_next_question(base, tmp_path):
    rows = [*rows_of("tiny_gsm8k", 1, "brew zarn"), *rows_of("tiny_gsm8k", 1, "brew it")]
    rows += [{**rows[1], "answer": "#### 5"}]
    loaded = load("tiny_gsm8k", str(write(tmp_path / "t.jsonl", rows)), template="none").rows
    assert ask(base, None, "gsm8k", loaded, batch_size=3).tolist() == [1.0, 0.0, 1.0]


def test_answers_meet_the_items_in_the_order_of_the_rows(base, tmp_path):
    """The middle row alone is answered right: its weight is what IRT gives."""
    bank = bank_of("arc", "winogrande")
    save_banks({"lb": bank}, tmp_path / "bank.npz")
    rows = rows_of("tiny_arc", 3)
    rows[1] = {**rows[1], "answerKey": "A"}
    places = {"tiny_arc": str(write(tmp_path / "arc.jsonl", rows))}
    (asked,) = load_benchmarks(str(tmp_path / "bank.npz"), places, ["arc"])
    found = run_benchmarks(base, None, [asked], batch_size=2)
    weights = bank.weights[bank.scenario[bank.anchors] == 0]
    assert found["arc"]["irt"] == pytest.approx(weights[1])
    assert found["arc"]["measured"] == pytest.approx(1 / 3)
    expected = estimate(bank, {"arc": np.asarray([0.0, 1.0, 0.0])}).scenarios["arc"]
    assert found == {"arc": {"measured": pytest.approx(1 / 3), **expected._asdict()}}


def test_each_benchmark_is_estimated_by_itself(base, tmp_path):
    bank = bank_of("arc", "winogrande")
    rows = {name: load(SETS[name], str(write(tmp_path / "t.jsonl", rows_of(SETS[name])))).rows for name in SETS}
    asked = [Asked(name, name, bank, rows[name]) for name in ("arc", "winogrande")]
    both = run_benchmarks(base, None, asked, batch_size=8)
    assert both["arc"] == run_benchmarks(base, None, asked[:1], batch_size=8)["arc"]
    assert list(both) == ["arc", "winogrande"]


def pickled(path, tree):
    path.write_bytes(pickle.dumps(tree))
    return read_pickle(path)


def test_mmlu_has_the_bank_of_its_own_in_the_pickle(tmp_path):
    both, own = bank_of("harness_truthfulqa_mc_0", "mmlu"), bank_of("mmlu", anchors=5)
    tree = {"lb": published(both)["lb"], "mmlu": published(own)["lb"]}
    banks = [pickled(tmp_path / "t.pkl", tree), pickled(tmp_path / "t.pkl", {"lb": tree["lb"]})]
    for place, bank in zip(("both", "one"), banks, strict=True):
        save_banks(bank, tmp_path / f"{place}.npz")
    found = read_banks(str(tmp_path / "both.npz"))
    assert {name: (scenario, len(bank.scenarios)) for name, (scenario, bank) in found.items()} == {
        "mmlu": ("mmlu", 1), "truthfulqa": ("harness_truthfulqa_mc_0", 2)}  # fmt: skip
    assert len(read_banks(str(tmp_path / "one.npz"))["mmlu"][1].scenarios) == 2


def test_remarks(tmp_path):
    save_banks({"lb": bank_of("arc", "mmlu")}, tmp_path / "bank.npz")
    places = {name: str(write(tmp_path / f"{name}.jsonl", rows_of(name))) for name in ("tiny_arc", "tiny_mmlu")}
    places["tiny_arc"] = str(write(tmp_path / "arc.jsonl", rows_of("tiny_arc", 3, "shots")))
    notes = []
    asked = load_benchmarks(str(tmp_path / "bank.npz"), places, None, notes.append)
    assert [one.name for one in asked] == ["mmlu", "arc"]
    assert len(notes) == 2
    assert "has a bank of its own" in notes[0]
    assert "tiny_mmlu: some rows have no input_formatted" in notes[1]


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (["poems"], rows_of("tiny_arc"), "no benchmark 'poems'; expected some of arc"),
        (None, rows_of("tiny_arc", 2), "2 rows, but .* has 3 items of arc"),
        (None, rows_of("tiny_arc", 4), "4 rows, but .* has 3 items of arc"),
        (None, [*rows_of("tiny_arc", 2), {}, *rows_of("tiny_arc", 1)], "line 3: 'choices' is missing"),
    ],
)
def test_rows_must_be_the_banks_items(tmp_path, names, rows, message):
    save_banks({"lb": bank_of("arc")}, tmp_path / "bank.npz")
    places = {"tiny_arc": str(write(tmp_path / "arc.jsonl", rows))}
    with pytest.raises(InputError, match=message):
        load_benchmarks(str(tmp_path / "bank.npz"), places, names)


def test_banks_of_other_things(tmp_path):
    save_banks({"lb": bank_of("poems")}, tmp_path / "bank.npz")
    with pytest.raises(InputError, match="has poems; expected some of hellaswag"):
        read_banks(str(tmp_path / "bank.npz"))
