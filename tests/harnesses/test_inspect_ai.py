"""inspect_ai scores our model as it scores the same model on transformers."""

import random

import pytest

pytest.importorskip("inspect_ai", reason="needs the extra inspect")

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import choice, includes, pattern
from inspect_ai.solver import generate, multiple_choice

from nlsr_jax.harnesses import inspect_ai as provider
from nlsr_jax.harnesses.logs import read_logs
from tests.adapter_files import save_inputs
from tests.tiny_base import WORDS

pytestmark = pytest.mark.long
assert provider.nlsr  # registers the provider in a checkout that is not installed


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return save_inputs(tmp_path_factory.mktemp("inputs"))


TASKS = {
    "words": {"scorer": includes(), "solver": generate()},
    "first_word": {"scorer": pattern(r"(\w+)"), "solver": generate()},
    "choices": {"scorer": choice(), "solver": multiple_choice()},
}


def samples(task, count=16):
    draw = random.Random(1)
    found = []
    for _ in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))
        if task == "choices":
            found.append(Sample(input=text, target=draw.choice("AB"), choices=draw.sample(WORDS, 2)))
        else:
            found.append(Sample(input=text, target=draw.choice(WORDS)))
    return found


def answered(model, tmp_path, task="words", **options):
    """The log of a task, and the answers and scores in the order of its samples."""
    made = Task(dataset=MemoryDataset(samples(task)), name=task, **TASKS[task])
    options = {"max_tokens": 12, "log_dir": str(tmp_path), "display": "none", "max_connections": 8, **options}
    (log,) = evaluate(made, model=model, **options)
    assert log.status == "success", log.error
    ordered = sorted(log.samples, key=lambda sample: sample.id)
    return log, [(one.output.completion, [score.value for score in one.scores.values()]) for one in ordered]


def test_every_answer_and_score_is_that_of_transformers(inputs, tmp_path):
    """The base with its adapter, against the same adapter merged by PEFT, on three tasks."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(inputs / "base"), inputs / "finetuned"
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(inputs / "base").save_pretrained(tmp_path / "merged")
    options = {"base": str(inputs / "base"), "batch_size": 8, "max_length": 512}
    ours = get_model(f"nlsr/{inputs / 'finetuned'}", **options)
    theirs = get_model(f"hf/{tmp_path / 'merged'}", do_sample=False, device="cpu")
    for task in TASKS:
        (log, first), (peer, second) = (answered(one, tmp_path / "logs", task) for one in (ours, theirs))
        assert first == second, task
        values = [one.results.scores[0].metrics["accuracy"].value for one in (log, peer)]
        assert values[0] == values[1]
    rows = read_logs([tmp_path / "logs"])
    found = {(row["task"], row["rows"], row["method"]) for row in rows}
    assert found == {(task, 16, method) for task in TASKS for method in ("finetuned", "merged")}


def test_sampled_answers_follow_the_seed_whatever_order_they_are_asked_in(inputs, tmp_path):
    def sampled(seed, connections):
        model = get_model(f"nlsr/{inputs / 'base'}", memoize=False)
        options = {"temperature": 2.0, "seed": seed, "max_connections": connections}
        return answered(model, tmp_path, **options)[1]

    first = sampled(1, 1)
    assert first == sampled(1, 8) != sampled(2, 8)


async def ask(model, turns, **config):
    return await model.api.generate(turns, config.pop("tools", []), "none", GenerateConfig(max_tokens=4, **config))


def test_what_is_not_supported_is_refused(inputs):
    import anyio

    from nlsr_jax.errors import InputError

    model = get_model(f"nlsr/{inputs / 'base'}")
    turns = [ChatMessageUser(content="how do i brew")]
    with pytest.raises(InputError, match="top_p is not supported"):
        anyio.run(lambda: ask(model, turns, top_p=0.5))
    with pytest.raises(InputError, match="tools are not supported"):
        anyio.run(lambda: ask(model, turns, tools=["a tool"]))
    with pytest.raises(InputError, match="template is 'chatty'"):
        get_model(f"nlsr/{inputs / 'base'}", template="chatty")


def test_prompts_are_rendered_as_the_template_says(inputs):
    turns = [ChatMessageSystem(content="help"), ChatMessageUser(content="how")]
    rendered = {
        template: get_model(f"nlsr/{inputs / 'base'}", template=template).api.render(turns)
        for template in ("auto", "none", "alpaca")
    }
    assert rendered["auto"] == "system: help\nuser: how\n"
    assert rendered["none"] == "helphow"
    assert rendered["alpaca"].endswith("### Instruction:\nhelp\n\nhow\n\n### Response:")
