"""lm-evaluation-harness scores our model as it scores the same model on transformers."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs the extra lm_eval")
pytest.importorskip("accelerate", reason="the peer on transformers needs accelerate")

from nlsr_jax.errors import InputError
from nlsr_jax.harnesses.lm_eval import NlsrLM
from nlsr_jax.harnesses.logs import read_logs
from tests.adapter_files import save_inputs
from tests.e2e.command import ROOT, error_line, python
from tests.harnesses import comparison
from tests.harnesses.tasks import save_real_tasks, save_tiny_tasks

pytestmark = pytest.mark.long
SMOLLM2 = ROOT / "checkpoints" / "runs" / "smollm2"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    os.environ.setdefault("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    folder = save_inputs(tmp_path_factory.mktemp("inputs"))
    save_tiny_tasks(folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def found(inputs):
    """Results of both models with an adapter, on three tasks."""
    names = ["tiny_choice", "tiny_rolling", "tiny_generate"]
    return comparison.both(inputs / "base", inputs / "finetuned", inputs / "tasks", names)


def test_every_item_has_the_same_score(found):
    for task, metric in (("tiny_choice", "acc"), ("tiny_choice", "acc_norm"), ("tiny_generate", "exact_match")):
        assert comparison.differing(*found, task, metric) == ([], 40)
    assert comparison.answers(found[0], "tiny_generate") == comparison.answers(found[1], "tiny_generate")


def test_likelihoods_are_equal_up_to_rounding(found):
    """Float32 on both sides: sums over up to 150 tokens of about 4 nats each."""
    for task in ("tiny_choice", "tiny_rolling"):
        ours, theirs = (comparison.likelihoods(one, task) for one in found)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name in ("word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"):
        ours, theirs = (one["results"]["tiny_rolling"][name] for one in found)
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_adapter_counts(found, inputs):
    without = comparison.evaluate(NlsrLM(str(inputs / "base")), inputs / "tasks", ["tiny_choice"])
    before, after = (comparison.likelihoods(one, "tiny_choice") for one in (without, found[0]))
    assert np.abs(before - after).max() > 0.01


def test_the_command_knows_the_model_and_its_results_are_read(inputs, tmp_path):
    arguments = f"pretrained={inputs / 'base'},peft={inputs / 'finetuned'}"
    given = ["run", "--model", "nlsr", "--model_args", arguments, "--include_path", inputs / "tasks"]
    given += ["--tasks", "tiny_choice", "--limit", 8, "--output_path", tmp_path / "out"]
    module = "nlsr_jax.harnesses.lm_eval"
    env = {"HF_DATASETS_CACHE": os.environ["HF_DATASETS_CACHE"]}
    assert "tiny_choice" in python("-m", module, *given, env=env, anew=True).stdout
    rows = read_logs([tmp_path / "out"])
    assert [(row["metric"], row["method"], row["rows"]) for row in rows] == [
        ("acc", "finetuned", 8),
        ("acc_norm", "finetuned", 8),
    ]
    given[4] = f"base={inputs / 'base'},dtype=float99"
    failed = python("-m", module, *given, env=env, anew=True, check=False)
    assert error_line(failed) == "error: dtype is 'float99'; expected float32, bfloat16 or float16"


def test_settings_that_are_not_supported_are_one_line(inputs):
    base = str(inputs / "base")
    model = NlsrLM(base, batch_size="auto:4")
    assert model.batch_size == 16
    with pytest.raises(InputError, match=r"top_p=0\.5 is not supported"):
        model._sampling({"do_sample": True, "temperature": 1.0, "top_p": 0.5})
    assert model._sampling({"do_sample": True, "temperature": 0.5, "top_p": 1.0}).temperature == 0.5
    with pytest.raises(InputError, match="batch_size is 'many'"):
        NlsrLM(base, batch_size="many")
    with pytest.raises(InputError, match="base is one and pretrained is two; give one of them"):
        NlsrLM("one", pretrained="two")


def test_chat_templates_are_the_tokenizers(inputs):
    model = NlsrLM(str(inputs / "base"))
    model.tokenizer.chat_template = (
        "{% for turn in messages %}{% if turn.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ turn.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    turns = [{"role": "system", "content": "how"}, {"role": "user", "content": "tell me"}]
    assert model.apply_chat_template(turns) == "[tell me]>"
    assert model.chat_template(True) == model.tokenizer.chat_template


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason=f"{SMOLLM2} is not there; make reproduce-real makes it")
def test_real_tasks_on_smollm2(shared_data, tmp_path):
    """SST-2 by likelihood, AG News by perplexity, GSM8K by generation; at most one item of 200 may differ.

    Rounding may choose another token where two are equally likely: a text then goes on differently.
    """
    names = save_real_tasks(tmp_path / "tasks", shared_data / "tasks")
    ours, theirs = comparison.both(SMOLLM2, None, tmp_path / "tasks", names)
    for task, metric in (("real_sst2", "acc"), ("real_sst2", "acc_norm"), ("real_gsm8k", "exact_match")):
        different, count = comparison.differing(ours, theirs, task, metric)
        print(f"{task} {metric}: {len(different)} of {count} items differ")
        assert (len(different) <= 1, count) == (True, 200)
    values = [comparison.likelihoods(one, "real_ag_news") for one in (ours, theirs)]
    np.testing.assert_allclose(*values, rtol=1e-4)
    print(json.dumps({name: [one["results"][name] for one in (ours, theirs)] for name in names}, default=str))
