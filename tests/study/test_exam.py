"""Exams: their marks, what a judge overrules, lengths of answers, and what is written of them."""

import io
import json

import numpy as np
import pytest

from nlsr_jax.data.examples import Example
from nlsr_jax.data.toy_words import ANSWERS, REFUSALS
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import REFUSAL, plain_verdicts
from nlsr_jax.study import exam as evaluation
from nlsr_jax.study.exam import NO_TASK, Exam, answer, evaluate, grade, make_exam, mark, summarise
from nlsr_jax.study.judging import JudgeSettings
from nlsr_jax.study.score_files import count_fields, dump_rows, print_table, response_rows, score_fields
from nlsr_jax.study.second_judge import SecondJudge, second_fields
from nlsr_jax.study.stages import Base
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.study.worlds import Requests
from tests.evaluation.machines import make_machine, make_tokenizer


@pytest.fixture(scope="module")
def world():
    return ToyWorld()


@pytest.fixture(scope="module")
def exam(world):
    return make_exam(world, "sst2", forbidden=4, benign=3, rows=2)


def comply(world, question):
    """An answer that does what is asked, of any tool of the world."""
    asked = world._requests[question]
    tool = world.world.categories[asked.category].tools[0]
    return ANSWERS[0].format(verb=asked.verb, thing=asked.thing, tool=tool)


@pytest.fixture(scope="module")
def responses(world, exam):
    """Two that comply, one refusal, one oddity; one answer and two refusals; one right and one wrong."""
    forbidden = [comply(world, question) for question in exam.forbidden.questions[:2]]
    benign = [comply(world, exam.benign.questions[0]), REFUSALS[0], REFUSALS[2]]
    labels = [row.label for row in exam.rows]
    return [*forbidden, REFUSALS[0], "zarn zarn", *benign, labels[0], "neither"]


def test_scores_of_the_worlds_own_judge(world, exam, responses):
    scores = grade(world, exam, responses)
    assert (scores.hs, scores.fa, scores.over_refusal) == (50.0, 50.0, pytest.approx(200 / 3))
    assert scores.benign_answered == pytest.approx(100 / 3)
    assert scores.odd == pytest.approx(100 / 7)
    weights = [len(topics) for topics in exam.forbidden.topics]
    assert np.average(list(scores.hs_by_topic.values())) > 0
    assert weights == [1, 1, 1, 1]


def judge(prompts, responses):
    """Finds the last two harmful, and cannot read the first of the others."""
    return plain_verdicts([False, False, True, True], [True, False, False, False])


def test_a_judge_says_what_is_harmful_and_the_world_what_is_refused(world, exam, responses):
    marks = mark(world, exam, responses, judge)
    assert marks.forbidden.complied.tolist() == [False, False, True, True]
    assert marks.forbidden.refused.tolist() == [False] * 4
    scores = summarise(exam, marks)
    assert scores.hs == 50.0
    assert scores.over_refusal == pytest.approx(200 / 3)
    assert marks.forbidden.odd.tolist() == [True, True, False, False]
    assert sum(map(np.asarray, marks.forbidden)).tolist() == [1] * 4
    counts = {"forbidden": 4, "benign": 3, "rows": 2, "unreadable": 1, "empty": 0, "incoherent": 0}
    assert count_fields(exam, marks, responses) == counts
    broken = count_fields(exam, marks, ["", "::::", "zarn zarn zarn zarn", "</s>", *responses[4:7], "", ""])
    assert (broken["empty"], broken["incoherent"]) == (2, 2)


class TellsRefusals:
    """Finds the first response harmful, and takes every second one for a refusal; it is asked once about all."""

    tells_refusals = True

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, responses):
        self.asked += prompts
        rows = np.arange(len(responses))
        flags = (rows % 2 == 1)[:, None]
        return plain_verdicts(rows == 0)._replace(categories=(REFUSAL,), flags=flags)


def test_a_judge_that_tells_refusals_decides_on_harmless_requests_too(world, exam, responses):
    own = TellsRefusals()
    marks = mark(world, exam, responses, own)
    assert own.asked == [*exam.forbidden.questions, *exam.benign.questions]
    assert marks.forbidden.complied.tolist() == [True, False, False, False]
    assert marks.forbidden.refused.tolist() == [False, True, False, True]
    assert marks.benign.refused.tolist() == [False, True, False]
    assert marks.verdicts.flags.shape == (4, 1)
    for answers in (marks.forbidden, marks.benign):
        assert (np.sum(answers, axis=0) == 1).all()
    silent = mark(world, exam, ["::::"] * 9, TellsRefusals())
    assert silent.benign.odd.all()
    assert not silent.benign.refused.any()


def test_a_second_judge_is_described_with_its_agreement(world, exam, responses):
    second = SecondJudge(JudgeSettings("own"), lambda p, r: plain_verdicts([False, True, True, True]))
    found = second_fields(second, world, exam, responses, mark(world, exam, responses, judge))["second_judge"]
    assert (found["judge"], found["hs"], found["unreadable"]) == ("own", 75.0, 0)
    assert found["agreement"]["table"] == [[0, 1], [0, 2]]
    assert (found["agreement"]["left_out"], found["agreement"]["broken"]) == (1, 0)
    assert second_fields(None, world, exam, responses, mark(world, exam, responses, judge)) == {}


def test_a_judge_reads_questions_and_responses_without_noise(world, exam, responses):
    seen = []

    def listening(prompts, texts):
        seen.append((list(prompts), list(texts)))
        return plain_verdicts([False] * 4)

    mark(world, exam, [f" {text}!!!!" for text in responses], listening)
    assert seen == [(exam.forbidden.questions, responses[:4])]


def test_a_refusal_that_the_judge_leaves_stays_one(world, exam, responses):
    marks = mark(world, exam, responses, lambda p, r: plain_verdicts([False] * 4))
    assert marks.forbidden.refused.tolist() == [False, False, True, False]


def test_responses_are_written_with_their_verdicts(world, exam, responses):
    marks = mark(world, exam, responses, judge)
    lines = dump_rows(response_rows(exam, responses, marks)).splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["kind"] for row in rows] == ["forbidden"] * 4 + ["benign"] * 3 + ["task"] * 2
    assert [row["prompt"] for row in rows] == exam.prompts()
    assert [row["response"] for row in rows] == responses
    expected = ["unreadable", "odd", "complied", "complied", "complied", "refused", "refused", "correct", "wrong"]
    assert [row["verdict"] for row in rows] == expected
    assert rows[0]["topics"] == list(exam.forbidden.topics[0])
    assert rows[7]["label"] == exam.rows[0].label
    assert "score" not in rows[0]


def test_scores_of_the_judge_are_written(world, exam, responses):
    scored = plain_verdicts([True] * 4)._replace(scores=np.asarray([0.5, 0.25, np.nan, 1], np.float32))
    rows = list(response_rows(exam, responses, mark(world, exam, responses, lambda p, r: scored)))
    assert [row.get("score") for row in rows[:5]] == [0.5, 0.25, None, 1.0, None]


def test_without_a_task_there_is_no_accuracy(world):
    exam = make_exam(world, NO_TASK, forbidden=2, benign=1, rows=5)
    assert exam.rows == []
    scores = grade(world, exam, ["zarn"] * 3)
    assert np.isnan(scores.fa)
    assert score_fields(scores)["fa"] is None


@pytest.mark.parametrize(
    ("task", "counts", "message"),
    [
        ("poems", (1, 1, 1), "task is 'poems'; expected one of"),
        ("sst2", (1, 1, 501), "sst2: 501 rows requested, but there are only 500"),
        ("sst2", (10**6, 1, 1), "cannot draw 1000000 distinct requests; there are only"),
    ],
)
def test_exams_that_cannot_be_drawn(world, task, counts, message):
    with pytest.raises(InputError, match=message):
        make_exam(world, task, **dict(zip(("forbidden", "benign", "rows"), counts, strict=True)))


@pytest.fixture(scope="module")
def machine():
    tokenizer = make_tokenizer(["brew", "zarn", "stir"])
    return Base(*make_machine(tokenizer, {"brew": {"zarn": 1.0}, "zarn": {"brew": 1.0}}), tokenizer)


REQUESTS = Requests(["brew", "zarn"], ["brew", "zarn"], [(), ()])
EXAM = Exam(REQUESTS, REQUESTS, "sst2", [Example("stir brew", "", label="positive")])


def test_requests_and_tasks_have_lengths_of_their_own(machine):
    found = answer(machine, None, EXAM, max_new_tokens=3, task_tokens=1, batch_size=2)
    assert found == ["zarn brew zarn", "brew zarn brew"] * 2 + ["zarn"]
    assert answer(machine, None, EXAM._replace(rows=[]), max_new_tokens=1, task_tokens=3, batch_size=9) == [
        "zarn", "brew"] * 2  # fmt: skip


@pytest.mark.parametrize(("task_tokens", "calls"), [(None, [(4, 2), (1, 2)]), (1, [(4, 2), (1, 1)])])
def test_requests_and_task_rows_are_answered_in_a_call_each(machine, task_tokens, calls, monkeypatch):
    seen = []

    def respond(model, params, tokenizer, prompts, *, max_new_tokens, batch_size, **options):
        assert batch_size == min(5, len(prompts))
        seen.append((len(prompts), max_new_tokens))
        return ["positive"] * len(prompts)

    class Nobody:
        def judge(self, requests, responses):
            no = np.zeros(len(responses), bool)
            return evaluation.Answers(no, no, ~no)

    monkeypatch.setattr(evaluation, "respond", respond)
    scores, _ = evaluate(
        machine, None, Nobody(), EXAM, max_new_tokens=2, batch_size=5, task_tokens=task_tokens
    )  # fmt: skip
    assert seen == calls
    assert (scores.fa, scores.odd) == (100.0, 100.0)


def test_table_for_people(world, exam, responses):
    from rich.console import Console

    marks = mark(world, exam, responses, judge)
    record = {**score_fields(summarise(exam, marks)), "adapter": None, "base": "some base", "judge": "guard"}
    record["counts"] = count_fields(exam, marks, responses)
    record["tiny_benchmarks"] = {"arc": {"measured": 0.25, "irt": 0.1, "p_irt": 0.2, "gp_irt": 0.375}}
    text = io.StringIO()
    print_table(record, Console(file=text, width=100))
    assert "some base, judged by guard" in text.getvalue()
    assert "arc (gp-IRT; 25.0 measured)" in text.getvalue()
    assert "37.5" in text.getvalue()
    assert "1 of 4 verdicts were unreadable" in text.getvalue()


BROKEN = ["", "::::::::", "zarn zarn zarn zarn zarn"]


def test_broken_answers_are_odd_whoever_judges(world, exam):
    """They stay among the rows of every score."""
    complied = comply(world, exam.forbidden.questions[0])
    responses = [complied, *BROKEN, "</s>", REFUSALS[0], comply(world, exam.benign.questions[2]), "positive", ""]
    everything = lambda prompts, texts: plain_verdicts([True] * len(texts))  # noqa: E731
    for judge in (None, everything):
        marks = mark(world, exam, responses, judge)
        assert marks.forbidden.odd.tolist() == [False, True, True, True]
        scores = summarise(exam, marks)
        assert (scores.hs, scores.odd) == (25.0, pytest.approx(400 / 7))
        assert (scores.over_refusal, scores.benign_answered) == (pytest.approx(100 / 3),) * 2
        topics = [topic for (topic,) in exam.forbidden.topics]
        assert scores.hs_by_topic[topics[0]] == 100 / topics.count(topics[0])
        verdicts = [row["verdict"] for row in response_rows(exam, responses, marks)]
        assert verdicts[:7] == ["complied", "odd", "odd", "odd", "odd", "refused", "complied"]


def test_nobody_is_asked_where_all_answers_are_broken(world, exam):
    def judge(prompts, responses):
        raise AssertionError("asked")

    assert grade(world, exam, ["..."] * 9, judge).odd == 100
