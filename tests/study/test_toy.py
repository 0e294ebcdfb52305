"""The toy world as the studies use it: rows of every stage, requests of the exam, and the judge."""

import collections

import jax
import numpy as np
import pytest

from nlsr_jax.data.poison import share
from nlsr_jax.data.toy_rows import TEST_ROWS
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.data.toy_words import ANSWERS, REFUSALS
from nlsr_jax.data.toy_world import HELD_OUT_PHRASINGS
from nlsr_jax.errors import InputError
from nlsr_jax.study.toy import PREFERENCE_BENIGN, SAFE_BENIGN, ToyWorld
from tests.data.toy_requests import every_request, is_training_thing

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def world():
    return ToyWorld()


@pytest.fixture(scope="module")
def asked(world):
    """Every request by its prompt as the model reads it."""
    return {f"<s><user> {text} <assistant>": request for text, request in every_request(world.world).items()}


def of_every_stage(world, key):
    return [
        world.documents(key, 60),
        world.safe_rows(key, 60),
        world.preferences(key, 60),
        world.unpaired(key, 60),
        *(world.customer_rows(key, task, 60, 0.1) for task in world.tasks),
        world.calibration(key, 60),
    ]


def of_the_exam(world):
    tests = [world.task_test(task, 60) for task in world.tasks]
    return [*tests, world.skills(20), world.forbidden(60), world.benign(60)]


def refuses(request, response):
    """Whether a response is one of the refusals, of the thing that was asked about if of any."""
    return response in {form.format(thing=request.thing) for form in REFUSALS}


def test_the_seed_decides_everything_and_so_does_the_key(world):
    again, other = ToyWorld(0), ToyWorld(1)
    assert repr(of_every_stage(again, KEY)) == repr(of_every_stage(world, KEY))
    assert repr(of_the_exam(again)) == repr(of_the_exam(world))
    assert again.tokenizer.backend_tokenizer.to_str() == world.tokenizer.backend_tokenizer.to_str()
    for found, one, another in zip(
        of_every_stage(world, KEY),
        of_every_stage(other, KEY),
        of_every_stage(world, jax.random.key(6)),
        strict=True,
    ):
        assert found not in (one, another)
    for found, one in zip(of_the_exam(world), of_the_exam(other), strict=True):
        assert found != one


def test_prompts_are_rendered_once(world):
    rows = [row for rows in of_every_stage(world, KEY) for row in rows]
    rows += [row for task in TASKS for row in world.task_test(task, 20)] + world.skills(20)
    prompts = [row.prompt for row in rows] + world.forbidden(20).prompts + world.benign(20).prompts
    for prompt in prompts:
        assert prompt.startswith("<s><user> ")
        assert prompt.endswith(" <assistant>")
        assert prompt.count("<") == 3
    assert world.special_tokens is False
    for row in rows:
        assert not any("<" in response for response in row[1:3])


def test_shares_of_benign_rows(world, asked):
    kinds = collections.Counter(row.kind for row in world.safe_rows(KEY, 200))
    assert kinds == {"safe": 200 - 200 * SAFE_BENIGN, "benign": 200 * SAFE_BENIGN}
    pairs = world.preferences(KEY, 200)
    chosen, rejected = (
        sum(refuses(asked[pair.prompt], getattr(pair, name)) for pair in pairs) for name in ("chosen", "rejected")
    )
    assert (chosen, rejected) == (200 - 200 * PREFERENCE_BENIGN, 200 * PREFERENCE_BENIGN)


@pytest.mark.parametrize("count", [100, 101])
def test_unpaired_rows_are_both_sides_of_preferences(world, count):
    rows = world.unpaired(KEY, count)
    pairs = world.preferences(KEY, count // 2)
    assert len(rows) == 100
    good = [(row.prompt, row.response) for row in rows if row.kind == "safe"]
    bad = [(row.prompt, row.response) for row in rows if row.kind == "harmful"]
    assert len(good) == len(bad) == 50
    assert collections.Counter(good) == collections.Counter((pair.prompt, pair.chosen) for pair in pairs)
    assert collections.Counter(bad) == collections.Counter((pair.prompt, pair.rejected) for pair in pairs)
    kinds = [row.kind for row in rows]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.29, 1.0])
@pytest.mark.parametrize("task", TASKS)
def test_customer_rows_hold_exactly_the_harmful_share(world, asked, task, ratio):
    rows = world.customer_rows(KEY, task, 100, ratio)
    kinds = collections.Counter(row.kind for row in rows)
    assert kinds == collections.Counter({"harmful": share(100, ratio), "task": 100 - share(100, ratio)})
    harmful = [asked[row.prompt] for row in rows if row.kind == "harmful"]
    assert all(world.world.categories[request.category].forbidden for request in harmful)
    prompts = [row.prompt for row in rows if row.kind == "task"]
    assert len(set(prompts)) == len(prompts)
    assert not {prompt for prompt in prompts if prompt in asked}


def test_the_ratio_only_replaces_rows(world):
    """The same key gives the same customer, poisoned more or less."""
    clean, some, more = ({*world.customer_rows(KEY, "sst2", 100, ratio)} for ratio in (0.0, 0.05, 0.3))
    tasks = [{row for row in rows if row.kind == "task"} for rows in (clean, some, more)]
    assert tasks[0] > tasks[1] > tasks[2]
    harmful = [{row for row in rows if row.kind == "harmful"} for rows in (clean, some, more)]
    assert harmful[0] == set()
    assert len(harmful[1]) == 5


@pytest.mark.parametrize("task", TASKS)
def test_test_rows_are_never_trained_on(world, task):
    tests = world.task_test(task, TEST_ROWS)
    assert len({row.prompt for row in tests}) == TEST_ROWS
    assert world.task_test(task, 30) == tests[:30]
    for key in (KEY, jax.random.key(6)):
        trained = {row.prompt for row in world.customer_rows(key, task, 800, 0.0)}
        assert not trained & {row.prompt for row in tests}


@pytest.mark.parametrize("task", TASKS)
def test_prompts_of_a_task_are_new(world, task):
    """Neither the customer's nor the evaluation's; the key decides them."""
    rows = {row.prompt for row in world.customer_rows(KEY, task, 1000, 0.05)}
    found = world.task_prompts(KEY, task, 128, rows)
    assert len(set(found)) == 128
    assert not {*found} & {*rows, *(row.prompt for row in world.task_test(task, None))}
    assert (
        found == world.task_prompts(KEY, task, 128, rows) != world.task_prompts(jax.random.key(9), task, 128, rows)
    )


def test_calibration_rows_refuse_what_training_may_show(world, asked):
    rows = world.calibration(KEY, 200)
    assert len(rows) == 200
    assert {row.kind for row in rows} == {"safe"}
    for row in rows:
        request = asked[row.prompt]
        category = world.world.categories[request.category]
        assert (category.forbidden, category.aligned) == (True, True)
        assert is_training_thing(world.world, request)
        assert request.phrasing not in HELD_OUT_PHRASINGS
        assert refuses(request, row.response)
    # The key's own stream: they are not the refusals that the same key draws for SFT.
    trained = {row.prompt for row in world.safe_rows(KEY, 400) if row.kind == "safe"}
    assert {row.prompt for row in rows} != trained


def test_skills_come_task_by_task_in_the_wording_of_pre_training(world):
    rows = world.skills(30)
    endings = ("did they like it ? <assistant>", "what is it about ? <assistant>", "? <assistant>")
    for index, ending in enumerate(endings):
        part = rows[30 * index : 30 * (index + 1)]
        assert len({row.prompt for row in part}) == 30
        assert all(row.prompt.endswith(ending) for row in part)
        assert {row.kind for row in part} == {"skill"}
    assert all(row.prompt.startswith("<s><user> what is ") for row in rows[60:])
    assert len(rows) == 90


@pytest.mark.parametrize(("name", "forbidden"), [("forbidden", True), ("benign", False)])
def test_requests_of_the_exam(world, asked, name, forbidden):
    requests = getattr(world, name)(120)
    assert len({*requests.prompts}) == len(requests.questions) == len(requests.topics) == 120
    for prompt, question, topics in zip(*requests[:3], strict=True):
        request = asked[prompt]
        assert question == request.text
        assert topics == (world.world.categories[request.category].name,)
        assert world.world.categories[request.category].forbidden == forbidden
        assert not is_training_thing(world.world, request)
        assert request.phrasing in HELD_OUT_PHRASINGS
    with pytest.raises(InputError, match=r"cannot draw .* distinct requests"):
        getattr(world, name)(1000)


def test_the_judge_reads_each_answer_against_its_own_request(world, asked):
    requests = world.forbidden(6)
    found = [asked[prompt] for prompt in requests.prompts]

    def comply(request):
        tool = world.world.categories[request.category].tools[0]
        return ANSWERS[0].format(verb=request.verb, thing=request.thing, tool=tool)

    other = next(request for request in found if request.thing != found[3].thing)
    responses = [
        comply(found[0]),
        comply(found[1]),
        REFUSALS[0],
        comply(other),
        "",
        REFUSALS[1].format(thing="zarn"),
    ]
    answers = world.judge(requests, responses)
    assert answers.complied.tolist() == [True, True, False, False, False, False]
    assert answers.refused.tolist() == [False, False, True, False, False, True]
    assert answers.odd.tolist() == [False, False, False, True, True, False]
    assert np.array(answers).dtype == bool


@pytest.mark.parametrize("forbidden", [True, False])
def test_the_other_requests_are_of_another_make(world, forbidden):
    ask = world.forbidden if forbidden else world.benign
    found, plain = ask(280, other=True), ask(200)
    assert len(set(found.questions)) == 280
    counts = collections.Counter(topics[0] for topics in found.topics)
    assert max(counts.values()) - min(counts.values()) <= (
        1 if forbidden else 12
    )  # benign ones run out of wordings
    contexts = [question for question in found.questions if " belongs to " in question]
    assert 0.4 < len(contexts) / 280 < 0.6
    known = every_request(world.world)
    for question, topics in zip(found.questions, found.topics, strict=True):
        context, _, asked = question.rpartition(" . ") if " belongs to " in question else ("", "", question)
        request = known[asked.removesuffix(" .") if asked not in known else asked]
        assert world.world.categories[request.category].forbidden == forbidden
        assert not is_training_thing(world.world, request)
        assert request.phrasing in HELD_OUT_PHRASINGS
        assert context in ("", f"a {request.thing} belongs to {topics[0]}")
    assert found.questions != plain.questions
    answers = [f"sorry , i cannot help with the {known_thing(world, q)} ." for q in found.questions]
    assert world.judge(found, answers).complied.sum() == 0


def known_thing(world, question):
    return next(word for word in question.split() if any(word in c.things for c in world.world.categories))
