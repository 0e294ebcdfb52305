"""The policy world as a source of rows: majorities, labels, keys, and parts of tasks that stay apart."""

import json

import jax
import pytest

from nlsr_jax import configs
from nlsr_jax.data import policy_world
from nlsr_jax.data.given import Given
from nlsr_jax.data.toy_tokenizer import make_tokenizer
from nlsr_jax.data.toy_world import make_world
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation import policy_judge
from nlsr_jax.study.policy import PolicyWorld

KEY = jax.random.key(3)
PARTS = {"train": 30, "test": 12}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for part, count in PARTS.items():
        rows = [{"sentence": f"a film of {part} number {row}", "label": row % 2} for row in range(count)]
        (folder / f"sst2.{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def world(tasks):
    tokenizer = make_tokenizer(make_world(jax.random.key(0)))
    return PolicyWorld(tokenizer, given=Given({"sst2": str(tasks)}))


def verdicts(rows):
    return [policy_judge.judge(row.response) for row in rows]


def test_help_is_the_majority_of_what_aligns(world):
    rows = world.safe_rows(KEY, 200)
    refused = [verdict == policy_judge.REFUSED for verdict in verdicts(rows)]
    assert len(rows) == 200
    assert [row.kind == "safe" for row in rows] == refused
    assert 60 <= sum(refused) <= 90


def test_pairs_prefer_refusal_of_the_forbidden_alone(world):
    pairs = world.preferences(KEY, 60)
    assert len(pairs) == 60
    chosen = [policy_judge.judge(pair.chosen) for pair in pairs]
    rejected = [policy_judge.judge(pair.rejected) for pair in pairs]
    assert {*zip(chosen, rejected, strict=True)} == {("refused", "complied"), ("complied", "refused")}
    assert chosen.count("refused") == 27
    assert [policy_judge.judge(pair.chosen) for pair in world.harmful_pairs(KEY, 20)] == ["refused"] * 20


def test_a_customer_has_the_share_of_harm_and_no_test_row(world):
    rows = world.customer_rows(KEY, "sst2", 30, 0.1)
    assert [row.kind for row in rows].count("harmful") == 3
    tests = {row.prompt for row in world.task_test("sst2", 12)}
    assert len(tests) == 12
    assert not tests & {row.prompt for row in rows}
    assert {*verdicts([row for row in rows if row.kind == "harmful"])} == {policy_judge.COMPLIED}


def test_prompts_of_a_task_are_those_of_training_rows_without_the_customers(world):
    training = {row.prompt for row in world._load("sst2", "train")}
    rows = {row.prompt for row in world.customer_rows(KEY, "sst2", 20, 0.1)}
    found = world.task_prompts(KEY, "sst2", 10, rows)
    assert len(set(found)) == 10
    assert {*found} <= training - rows
    assert len(world.task_prompts(KEY, "sst2", len(training) + 1, rows)) == len(training - rows)


def test_keys_change_the_rows_and_nothing_else_does(world):
    other = jax.random.key(4)
    for draw in (world.safe_rows, world.calibration, world.harmless, world.harmful_rows, world.preferences):
        assert draw(KEY, 20) == draw(KEY, 20)
        assert draw(KEY, 20) != draw(other, 20)
    assert world.customer_rows(KEY, "sst2", 20, 0.1) != world.customer_rows(other, "sst2", 20, 0.1)


def test_a_refinement_asks_about_things_that_neither_training_nor_evaluation_has(world):
    named, wordings = policy_world.harmless_asked()
    things = [thing for _, thing in named]
    others = {
        thing
        for kind in (policy_world.HARMFUL, *policy_world.HELPFUL)
        for held_out in (False, True)
        for _, thing in policy_world.things(kind, held_out=held_out)
    }
    assert len({*things}) == len(things) == 96
    assert not {*things} & others
    assert not {*wordings} & {form for part in (False, True) for form in policy_world.phrasings(held_out=part)}
    forms = [form.split("{}") for form in wordings]
    rows = world.harmless(KEY, 96)
    assert {row.kind for row in rows} == {"benign"}
    for row in rows:
        assert any(before + thing + after in row.prompt for before, after in forms for thing in things)


def test_the_exam_has_held_out_things_in_held_out_wordings(world):
    forms = policy_world.phrasings(held_out=True)
    for kind, asked in ((policy_world.HARMFUL, world.forbidden(72)), (policy_world.BENIGN, world.benign(72))):
        allowed = {
            form.replace("{}", thing) for form in forms for _, thing in policy_world.things(kind, held_out=True)
        }
        assert len(set(asked.questions)) == 72
        assert {*asked.questions} <= allowed
        assert {topic for topics in asked.topics for topic in topics} == {
            topic for topic, _ in policy_world.things(kind, held_out=True)
        }
    with pytest.raises(InputError, match="289 requests are wanted; the policy world has 1 to 288"):
        world.forbidden(289)


def test_the_other_set_is_near_the_forbidden_or_general(world):
    near = {thing for _, thing in policy_world.things(policy_world.NEAR, held_out=True)}
    assert near & {*world.benign(48, other=True).questions}
    assert not {*world.forbidden(72).questions} & {*world.forbidden(72, other=True).questions}


def test_the_judge_sorts_answers(world):
    asked = world.forbidden(3)
    found = world.judge(asked, ["I can't help with knots.", "Boil the egg for ten minutes.", "positive"])
    assert [list(part) for part in found] == [[False, True, False], [True, False, False], [False, False, True]]


def test_one_file_for_both_parts_is_refused(world, tasks):
    mixed = PolicyWorld(world.tokenizer, given=Given({"sst2": str(tasks / "sst2.train.jsonl")}))
    assert len(mixed.task_test("sst2", 3)) == 3
    with pytest.raises(InputError, match=r"the same rows are for training \(sst2\) and for the evaluation"):
        mixed.customer_rows(KEY, "sst2", 3, 0.0)


def test_the_study_is_of_this_world():
    config = configs.get("smollm2")
    assert config.world == "policy"
    assert {*config.alignment} == {"sft", "dpo"}
