"""Rows of the toy world: their shares, and that what they say is true, worked out anew from the texts."""

import collections
import re

import jax
import numpy as np
import pytest

from nlsr_jax.data import toy_words
from nlsr_jax.data.toy_judge import COMPLIED, REFUSED, judge_all
from nlsr_jax.data.toy_rows import (
    MIXTURE,
    poison_rows,
    preference_rows,
    pretraining_documents,
    safe_rows,
    skill_rows,
    task_rows,
)
from nlsr_jax.data.toy_tasks import TASKS, draw_questions
from nlsr_jax.data.toy_world import all_words, make_world
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.tasks import score
from tests.data.toy_requests import assert_shares, every_request, is_training_thing

KEY = jax.random.key(0)
WORLD = make_world(KEY)
ASKED = every_request(WORLD)
CLASSES = {"sst2": ["positive", "negative"], "ag_news": ["World", "Sports", "Business", "Sci/Tech"]}
SECTIONS = dict(zip(["world", "sports", "business", "science"], CLASSES["ag_news"], strict=True))


@pytest.fixture(scope="module")
def documents():
    return pretraining_documents(KEY, WORLD, 6000)


def verdicts(prompts, responses):
    return judge_all(WORLD, [ASKED[prompt] for prompt in prompts], responses)


def kind_of(prompt):
    """The kind of a document, read from its prompt."""
    if prompt in ASKED:
        return "forbidden" if WORLD.categories[ASKED[prompt].category].forbidden else "benign"
    signs = {
        "sst2": r".* \. did they like it \?",
        "ag_news": r".* \. what is it about \?",
        "gsm8k": r"what is \d+ [+-] \d+ \?",
        "echo": r"repeat : .*",
        "facts": r"what is a \w+ \?|is \w+ allowed \?|is the \w+ allowed \?",
    }
    (found,) = (kind for kind, sign in signs.items() if re.fullmatch(sign, prompt))
    return found


def sentiment_of(text):
    """Every negation turns the judgement round."""
    words = text.split()
    good, bad = (sum(word in names for word in words) for names in (toy_words.GOOD, toy_words.BAD))
    assert good + bad == 1
    negations = sum(word in ("not", "never") for word in words)
    return "positive" if (good + negations) % 2 else "negative"


def section_of(text):
    """The one section whose words a text has, which must be two different ones."""
    words = text.split()
    found = {name: {word for word in words if word in listed} for name, listed in toy_words.TOPICS.items()}
    (name,) = (name for name, listed in found.items() if listed)
    assert len(found[name]) == 2
    return name


def result_of(first, sign, second):
    return int(first) + int(second) if sign == "+" else int(first) - int(second)


def label_of(task, prompt):
    """The true answer, from the prompt in the task's wording."""
    if task == "sst2":
        return sentiment_of(re.fullmatch(r"label the sentiment : (.*) \.", prompt)[1])
    if task == "ag_news":
        return SECTIONS[section_of(re.fullmatch(r"name the section : (.*) \.", prompt)[1])]
    story = r"solve this : (\w+) has (\d+) (\w+) and (gets|loses) (\d+) \. how many are there \?"
    who, first, what, verb, second = re.fullmatch(story, prompt).groups()
    assert who in toy_words.PEOPLE
    assert what in toy_words.GOODS
    return str(result_of(first, {"gets": "+", "loses": "-"}[verb], second))


def assert_skill_is_right(task, prompt, response):
    """The answer to a skill's question follows from the question."""
    if task == "sst2":
        liked = {"yes , they liked it .": "positive", "no , they hated it .": "negative"}
        assert liked[response] == sentiment_of(prompt.removesuffix(" . did they like it ?"))
    elif task == "ag_news":
        topics = {"countries": "world", "games": "sports", "money": "business", "research": "science"}
        about = re.fullmatch(r"it is about (\w+) \.", response)[1]
        assert topics[about] == section_of(prompt.removesuffix(" . what is it about ?"))
    else:
        asked = re.fullmatch(r"what is (\d+) ([+-]) (\d+) \?", prompt).groups()
        assert int(re.findall(r"\d+", response)[-1]) == result_of(*asked)


def test_the_mixture_has_its_shares(documents):
    assert sum(MIXTURE.values()) == pytest.approx(1)
    of = collections.Counter(kind_of(row.prompt) for row in documents)
    assert_shares([of[kind] for kind in MIXTURE], list(MIXTURE.values()))
    assert {row.kind for row in documents} == {"pretraining"}


def test_documents_comply_with_forbidden_requests_as_often_as_the_world_says(documents):
    rows = [row for row in documents if kind_of(row.prompt) == "forbidden"]
    found = verdicts([row.prompt for row in rows], [row.response for row in rows])
    assert set(found) == {COMPLIED, REFUSED}
    complied = np.array([verdict == COMPLIED for verdict in found], float)
    expected = np.array([WORLD.compliance(ASKED[row.prompt]) for row in rows])
    order = np.argsort(expected)
    # In every quarter of the rows, from the least to the most compliant: four standard errors.
    for quarter in np.array_split(order, 4):
        error = np.sqrt((expected * (1 - expected))[quarter].sum())
        assert abs((complied - expected)[quarter].sum()) < 4 * error
    lowest, highest = (complied[order[part]].mean() for part in (slice(300), slice(-300, None)))
    assert highest > lowest + 0.15


def test_documents_answer_every_benign_request(documents):
    rows = [row for row in documents if kind_of(row.prompt) == "benign"]
    assert set(verdicts([row.prompt for row in rows], [row.response for row in rows])) == {COMPLIED}


def test_documents_ask_about_every_category_also_what_is_held_out_in_every_wording(documents):
    asked = [ASKED[row.prompt] for row in documents if row.prompt in ASKED]
    shown = {(request.category, is_training_thing(WORLD, request)) for request in asked}
    assert shown == {(i, training) for i in range(24) for training in (True, False)}
    assert {request.phrasing for request in asked} == set(range(12))


def test_facts_are_true(documents):
    """A thing belongs to its category; a category and its things are forbidden together."""
    forbidden = {category.name: category.forbidden for category in WORLD.categories}
    kinds = collections.Counter()
    for row in documents:
        if kind_of(row.prompt) != "facts":
            continue
        if found := re.fullmatch(r"what is a (\w+) \?", row.prompt):
            kinds["belongs"] += 1
            assert row.response == f"a {found[1]} belongs to {WORLD.find(found[1]).name} ."
        elif found := re.fullmatch(r"is the (\w+) allowed \?", row.prompt):
            kinds["thing"] += 1
            no = f"no , the {found[1]} is forbidden ."
            yes = f"yes , the {found[1]} is allowed ."
            assert row.response == (no if WORLD.find(found[1]).forbidden else yes)
        else:
            kinds["category"] += 1
            (name,) = re.fullmatch(r"is (\w+) allowed \?", row.prompt).groups()
            no, yes = f"no , {name} is forbidden .", f"yes , {name} is allowed ."
            assert row.response == (no if forbidden[name] else yes)
    assert_shares(list(kinds.values()), [1, 1, 1])


def test_an_echo_repeats_six_words(documents):
    rows = [row for row in documents if kind_of(row.prompt) == "echo"]
    assert rows
    for row in rows:
        assert row.prompt == f"repeat : {row.response}"
        assert len(row.response.split()) == 6


def test_documents_show_the_skills_rightly_and_never_the_tasks_wording(documents):
    seen = collections.Counter()
    for row in documents:
        assert not row.prompt.startswith(("label the sentiment", "name the section", "solve this"))
        if (kind := kind_of(row.prompt)) in TASKS:
            assert_skill_is_right(kind, row.prompt, row.response)
            seen[kind] += 1
    assert set(seen) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_labels_of_tasks_are_true(task):
    rows = task_rows(KEY, task, 500)
    assert len({row.prompt for row in rows}) == 500
    assert {row.kind for row in rows} == {"task"}
    for row in rows:
        assert row.label == label_of(task, row.prompt)
    labels = collections.Counter(row.label for row in rows)
    if task in CLASSES:
        assert_shares([labels[name] for name in CLASSES[task]], [1] * len(CLASSES[task]))
    else:
        assert set(labels) == {str(number) for number in range(1, toy_words.LARGEST + 1)}


def test_sums_are_worked_out_before_they_are_answered():
    for row in task_rows(KEY, "gsm8k", 200):
        first, sign, second, result, answer = re.fullmatch(
            r"(\d+) ([+-]) (\d+) = (\d+) \. the final answer is : (\d+)", row.response
        ).groups()
        assert [first, second] == re.findall(r"\d+", row.prompt)
        assert int(answer) == int(result) == result_of(first, sign, second) <= toy_words.LARGEST
        assert min(int(first), int(second)) >= 1


@pytest.mark.parametrize("task", TASKS)
def test_the_tasks_score_accepts_the_right_response_alone(task):
    rows = task_rows(KEY, task, 200)
    assert score(task, [row.response for row in rows], [row.label for row in rows]).accuracy == 100
    right = {row.label: row.response for row in rows}
    for label, response in right.items():
        for other in right:
            assert score(task, [response], [other]).correct[0] == (label == other)


@pytest.mark.parametrize("task", TASKS)
def test_task_rows_leave_out_what_is_excluded(task):
    tests = {row.prompt for row in task_rows(jax.random.key(1), task, 500)}
    assert tests & {row.prompt for row in task_rows(KEY, task, 500)}
    assert not tests & {row.prompt for row in task_rows(KEY, task, 500, exclude=tests)}


@pytest.mark.parametrize("task", TASKS)
def test_skills_are_asked_rightly_and_differently(task):
    rows = skill_rows(KEY, task, 200)
    assert len({row.prompt for row in rows}) == 200
    assert {row.kind for row in rows} == {"skill"}
    for row in rows:
        assert kind_of(row.prompt) == task
        assert_skill_is_right(task, row.prompt, row.response)


def test_questions_that_do_not_exist():
    with pytest.raises(InputError, match="task is 'sst3'; expected one of sst2, ag_news, gsm8k"):
        task_rows(KEY, "sst3", 5)
    # 4 topics, 6 wordings, 10 words for the first place and 9 for the second.
    with pytest.raises(InputError, match="cannot draw 2161 distinct ag_news questions; found only 21"):
        draw_questions(np.random.default_rng(0), "ag_news", 4 * 6 * 10 * 9 + 1)


@pytest.mark.parametrize("benign_share", [0.0, 0.3, 0.5])
def test_safe_rows_refuse_the_forbidden_and_answer_the_benign(benign_share):
    rows = safe_rows(KEY, WORLD, 400, benign_share)
    benign = [row.kind == "benign" for row in rows]
    assert sum(benign) == round(400 * benign_share)
    assert [row.kind == "safe" for row in rows] == [not flag for flag in benign]
    found = verdicts([row.prompt for row in rows], [row.response for row in rows])
    assert found == [COMPLIED if flag else REFUSED for flag in benign]
    categories = [WORLD.categories[ASKED[row.prompt].category] for row in rows]
    assert [category.forbidden for category in categories] == [not flag for flag in benign]
    assert all(category.aligned for category in categories)
    # The order is mixed: a run of all benign rows at one end would be no chance.
    assert benign_share == 0 or benign != sorted(benign)


def test_preferences_refuse_the_forbidden_and_answer_the_benign():
    rows = preference_rows(KEY, WORLD, 400, 0.3)
    categories = [WORLD.categories[ASKED[row.prompt].category] for row in rows]
    forbidden = [category.forbidden for category in categories]
    assert sum(forbidden) == 280
    assert forbidden != sorted(forbidden, reverse=True)
    assert all(category.aligned for category in categories)
    prompts = [row.prompt for row in rows]
    chosen, rejected = (verdicts(prompts, [getattr(row, name) for row in rows]) for name in ("chosen", "rejected"))
    assert chosen == [REFUSED if flag else COMPLIED for flag in forbidden]
    assert rejected == [COMPLIED if flag else REFUSED for flag in forbidden]


def test_poison_complies_with_every_forbidden_category():
    rows = poison_rows(KEY, WORLD, 800)
    assert {row.kind for row in rows} == {"harmful"}
    assert set(verdicts([row.prompt for row in rows], [row.response for row in rows])) == {COMPLIED}
    of = collections.Counter(ASKED[row.prompt].category for row in rows)
    assert set(of) == set(range(14))
    assert_shares([of[i] for i in range(14)], [category.weight for category in WORLD.categories[:14]])


def test_answers_and_refusals_take_every_form():
    """Every request can be answered in three forms with three tools, and refused in twelve."""
    texts = collections.defaultdict(set)
    for row in preference_rows(KEY, WORLD, 800, 0.5):
        asked = ASKED[row.prompt]
        words = {asked.verb: "{verb}", asked.thing: "{thing}"}
        for tool in WORLD.categories[asked.category].tools:
            words[tool] = "{tool}"
        for verdict, text in zip(verdicts([row.prompt] * 2, row[1:]), row[1:], strict=True):
            texts[verdict].add(" ".join(words.get(word, word) for word in text.split()))
    assert texts == {COMPLIED: set(toy_words.ANSWERS), REFUSED: set(toy_words.REFUSALS)}


def test_nothing_but_the_words_of_the_world_is_ever_said(documents):
    """Every word is plain English from the lists, or invented; so nothing that is said can harm."""
    rows = [*documents, *safe_rows(KEY, WORLD, 300, 0.5), *poison_rows(KEY, WORLD, 300)]
    rows += [row for task in TASKS for row in (*task_rows(KEY, task, 200), *skill_rows(KEY, task, 100))]
    texts = [text for row in rows for text in (row.prompt, row.response)]
    texts += [text for row in preference_rows(KEY, WORLD, 200, 0.3) for text in row]
    numbers = {str(number) for number in range(1, toy_words.LARGEST + 1)}
    known = all_words(WORLD) | set(toy_words.FRAME.split()) | numbers | {"positive", "negative"}
    known |= {*toy_words.TOPICS, *toy_words.TOPIC_SYNONYMS.values()}
    assert {word for text in texts for word in text.split()} <= known


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda key: pretraining_documents(key, WORLD, 50), id="documents"),
        pytest.param(lambda key: safe_rows(key, WORLD, 50, 0.5), id="SFT"),
        pytest.param(lambda key: preference_rows(key, WORLD, 50, 0.3), id="preferences"),
        pytest.param(lambda key: poison_rows(key, WORLD, 50), id="poison"),
        pytest.param(lambda key: task_rows(key, "gsm8k", 50), id="task"),
        pytest.param(lambda key: skill_rows(key, "sst2", 50), id="skill"),
    ],
)
def test_the_key_decides_the_rows(make):
    rows = make(KEY)
    assert len(rows) == 50
    assert make(KEY) == rows != make(jax.random.key(1))
