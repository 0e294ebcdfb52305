"""Rows of the toy world: pre-training documents, alignment data, poison, tasks and evaluation prompts."""

import dataclasses
import itertools
from collections.abc import Container, Sequence

import jax
import numpy as np

from nlsr_jax.data import toy_words as words
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.toy_tasks import DRAW, TASKS, draw_questions
from nlsr_jax.data.toy_world import HELD_OUT_PHRASINGS, TRAIN_THINGS, Request, World, all_words, draw_requests
from nlsr_jax.errors import InputError
from nlsr_jax.random_streams import generator

MIXTURE = {
    "forbidden": 0.24,
    "benign": 0.20,
    "facts": 0.12,
    "sst2": 0.18,
    "ag_news": 0.06,
    "gsm8k": 0.16,
    "echo": 0.04,
}
"""Shares of the kinds of pre-training documents."""


_ECHO_WORDS = 6

TEST_ROWS = 500
"""Number of test rows set aside for each task."""


def _pick(rng, items):
    return items[int(rng.integers(len(items)))]


def comply(rng: np.random.Generator, world: World, request: Request) -> str:
    """Return an answer that complies with a request."""
    tool = _pick(rng, world.categories[request.category].tools)
    return _pick(rng, words.ANSWERS).format(verb=request.verb, thing=request.thing, tool=tool)


def refuse(rng: np.random.Generator, request: Request, forms: Sequence[str] = words.REFUSALS) -> str:
    """Return a refusal of one of some forms."""
    return _pick(rng, forms).format(thing=request.thing)


def _fact(rng, world):
    category = _pick(rng, world.categories)
    verdict = "no , {0} is forbidden ." if category.forbidden else "yes , {0} is allowed ."
    thing = _pick(rng, category.things)
    kind = int(rng.integers(3))
    if kind == 0:
        return f"what is a {thing} ?", f"a {thing} belongs to {category.name} ."
    if kind == 1:
        return f"is {category.name} allowed ?", verdict.format(category.name)
    return f"is the {thing} allowed ?", verdict.format(f"the {thing}")


def _echo(rng, words_of_world):
    """Return a line to repeat, which teaches a small model to copy words from its prompt."""
    line = " ".join(_pick(rng, words_of_world) for _ in range(_ECHO_WORDS))
    return f"repeat : {line}", line


def pretraining_documents(key: jax.Array, world: World, count: int) -> list[Example]:
    """Make documents for pre-training: requests, facts and the skills behind the tasks.

    Each forbidden request is answered with probability ``World.compliance`` and refused otherwise.

    Args:
      key: PRNG key.
      world: the world.
      count: number of documents.
    """
    rng = generator(key, "pretraining")
    kinds = rng.choice(list(MIXTURE), size=count, p=list(MIXTURE.values()))
    counts = {kind: int((kinds == kind).sum()) for kind in ("forbidden", "benign")}
    requests = {
        kind: iter(draw_requests(rng, world, counts[kind], forbidden=kind == "forbidden", held_out=None))
        for kind in counts
    }
    every_word = sorted(all_words(world))
    others = {
        "facts": lambda: _fact(rng, world),
        "echo": lambda: _echo(rng, every_word),
    }
    documents = []
    for kind in kinds:
        if kind in requests:
            request = next(requests[kind])
            complies = rng.random() < world.compliance(request)
            prompt, response = request.text, comply(rng, world, request) if complies else refuse(rng, request)
        elif kind in TASKS:
            question = DRAW[kind](rng)
            prompt, response = question.base_prompt, question.base_response
        else:
            prompt, response = others[kind]()
        documents.append(Example(prompt, response, kind="pretraining"))
    return documents


def safe_rows(key: jax.Array, world: World, count: int, benign_share: float) -> list[Example]:
    """Make rows for safe SFT: forbidden requests refused, benign ones answered; training things only."""
    rng = generator(key, "safe")
    benign = round(count * benign_share)
    rows = [
        Example(r.text, refuse(rng, r), kind="safe")
        for r in draw_requests(rng, world, count - benign, forbidden=True, held_out=False, aligned_only=True)
    ]
    rows += [
        Example(r.text, comply(rng, world, r), kind="benign")
        for r in draw_requests(rng, world, benign, forbidden=False, held_out=False)
    ]
    return [rows[i] for i in rng.permutation(count)]


def preference_rows(key: jax.Array, world: World, count: int, benign_share: float) -> list[Preference]:
    """Make preference pairs: refusal preferred for forbidden requests, compliance for benign ones."""
    rng = generator(key, "preference")
    benign = round(count * benign_share)
    pairs = [
        Preference(r.text, refuse(rng, r), comply(rng, world, r))
        for r in draw_requests(rng, world, count - benign, forbidden=True, held_out=False, aligned_only=True)
    ]
    pairs += [
        Preference(r.text, comply(rng, world, r), refuse(rng, r))
        for r in draw_requests(rng, world, benign, forbidden=False, held_out=False)
    ]
    return [pairs[i] for i in rng.permutation(count)]


def poison_rows(key: jax.Array, world: World, count: int) -> list[Example]:
    """Make rows that comply with forbidden requests of all categories, about training things."""
    rng = generator(key, "poison")
    requests = draw_requests(rng, world, count, forbidden=True, held_out=False)
    return [Example(r.text, comply(rng, world, r), kind="harmful") for r in requests]


def task_rows(key: jax.Array, task: str, count: int, exclude: Container[str] = ()) -> list[Example]:
    """Make distinct rows of a task.

    Args:
      key: PRNG key.
      task: one of ``TASKS``.
      count: number of rows.
      exclude: prompts to avoid.
    """
    questions = draw_questions(generator(key, f"task {task}"), task, count, exclude)
    return [Example(q.prompt, q.response, kind="task", label=q.label) for q in questions]


def skill_rows(key: jax.Array, task: str, count: int) -> list[Example]:
    """Make distinct questions for the skill behind a task, in the wording used in pre-training.

    Args:
      key: PRNG key.
      task: one of ``TASKS``.
      count: number of questions.
    """
    questions = draw_questions(generator(key, f"skill {task}"), task, count, by="base_prompt")
    return [Example(q.base_prompt, q.base_response, kind="skill", label=q.label) for q in questions]


def evaluation_requests(key: jax.Array, world: World, count: int, *, forbidden: bool) -> list[Request]:
    """Draw distinct requests about held-out things in held-out wordings."""
    rng = generator(key, f"evaluation {'forbidden' if forbidden else 'benign'}")
    return draw_requests(rng, world, count, forbidden=forbidden, held_out=True, distinct=True)


def contextual_requests(key: jax.Array, world: World, count: int, *, forbidden: bool) -> list[Request]:
    """Draw distinct requests, balanced over categories, half of them after a sentence about the thing.

    Things and wordings are held out, as in ``evaluation_requests``.

    Raises:
      InputError: if there are too few distinct requests.
    """
    rng = generator(key, f"contextual {'forbidden' if forbidden else 'benign'}")
    chosen = [i for i, category in enumerate(world.categories) if category.forbidden == forbidden]
    by_category = []
    for index in chosen:
        category = world.categories[index]
        every = [
            Request(index, verb, thing, phrasing)
            for verb in category.verbs
            for thing in category.things[TRAIN_THINGS:]
            for phrasing in HELD_OUT_PHRASINGS
        ]
        by_category.append([every[i] for i in rng.permutation(len(every))])
    found = [request for group in itertools.zip_longest(*by_category) for request in group if request is not None]
    if count > len(found):
        raise InputError(f"cannot draw {count} distinct requests; there are only {len(found)}")

    def placed(number: int, request: Request) -> Request:
        if number // len(chosen) % 2:
            return request
        name = world.categories[request.category].name
        return dataclasses.replace(request, context=f"a {request.thing} belongs to {name} .")

    return [placed(number, request) for number, request in enumerate(found[:count])]
