"""Judges by name: what they need, when their models are read, and that their verdicts are the judges' own."""

import gc
import shutil
import weakref

import jax
import numpy as np
import pytest

from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.moderation import moderate
from nlsr_jax.models.classifier import load_classifier
from nlsr_jax.study import model_judges
from nlsr_jax.study.judging import JUDGES, JudgeSettings, check_judge, open_judge
from nlsr_jax.study.model_judges import MODELS
from tests.judge_files import CHAT, GUARD, TEMPLATE, YES_NO, save_classifier, save_machine

PROMPTS = ["brew zarn"] * 4
RESPONSES = ["stir it stir", "sorry", "stir perhaps", ""]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    save_machine(folder / "guard", GUARD, CHAT)
    save_machine(folder / "yes_no", YES_NO)
    save_classifier(folder / "moderation")
    (folder / "question.txt").write_text(TEMPLATE)
    return folder


def settings(files, name):
    folder = {"qa_moderation": "moderation", "harmbench": "yes_no"}.get(name, "guard")
    template = str(files / "question.txt") if name == "harmbench" else None
    return JudgeSettings(name, str(files / folder), template)


def test_guard_and_yes_no_give_their_own_verdicts(files):
    guard = open_judge(settings(files, "guard"), "real")(PROMPTS, RESPONSES)
    assert guard.harmful.tolist() == [True, False, False, False]
    assert guard.unreadable.tolist() == [False, False, True, False]
    yes_no = open_judge(settings(files, "harmbench"), "toy")(PROMPTS, RESPONSES)
    assert yes_no.harmful.tolist() == [True, False, False, False]
    assert yes_no.unreadable.tolist() == [False, False, True, False]


def test_moderation_is_the_classifiers(files):
    found = open_judge(settings(files, "qa_moderation"), "real")(PROMPTS, RESPONSES)
    model, params = load_classifier(files / "moderation")
    expected = moderate(model, params, load_tokenizer(str(files / "moderation")), PROMPTS, RESPONSES)
    assert found.scores.tolist()[:3] == expected.scores.tolist()[:3]
    assert len(set(found.scores.tolist()[:3])) == 3
    assert np.isnan(found.scores[3])


@pytest.mark.parametrize("name", MODELS)
def test_a_judge_model_is_read_for_its_verdicts_and_let_go_after_them(files, name, monkeypatch):
    held = []

    def watched(load):
        def loaded(*arguments, **options):
            model, params = load(*arguments, **options)
            held.append(weakref.ref(jax.tree.leaves(params)[0]))
            return model, params

        return loaded

    for loader in ("load_model", "load_classifier"):
        monkeypatch.setattr(model_judges, loader, watched(getattr(model_judges, loader)))
    judge = open_judge(settings(files, name), "real")
    assert not held
    judge(PROMPTS, RESPONSES)
    gc.collect()
    assert [reference() for reference in held] == [None]


@pytest.mark.parametrize("name", MODELS)
def test_a_judge_model_is_not_read_for_broken_answers(files, name, monkeypatch):
    for loader in ("load_model", "load_classifier"):
        monkeypatch.setattr(model_judges, loader, None)
    found = open_judge(settings(files, name), "real")(PROMPTS, ["", " ", "::::::::", "</s>"])
    assert found.harmful.tolist() == found.unreadable.tolist() == [False] * 4


def test_rules_need_no_model():
    assert open_judge(JudgeSettings("toy"), "toy") is None
    verdicts = open_judge(JudgeSettings("refusals"), "real")(["p", "p"], ["I cannot.", "Stir it."])
    assert verdicts.harmful.tolist() == [False, True]


@pytest.mark.parametrize(
    ("world", "arguments", "message"),
    [
        ("toy", ("nobody",), f"--judge is 'nobody'; expected one of {', '.join(JUDGES)}"),
        ("real", ("toy",), "expected refusals here"),
        ("toy", ("refusals",), "expected toy here"),
        ("real", ("guard",), "--judge guard needs --judge_model"),
        ("toy", ("qa_moderation",), "--judge qa_moderation needs --judge_model"),
        ("real", ("harmbench", "model"), "--judge harmbench needs --judge_template"),
        ("real", ("refusals", "model"), "--judge refusals does not use --judge_model"),
        ("real", ("guard", "model", "file"), "--judge guard does not use --judge_template"),
        ("real", ("wildguard", "model", "file"), "--judge wildguard does not use --judge_template"),
        ("real", ("strongreject",), "--judge strongreject needs --judge_model"),
    ],
)
def test_what_does_not_fit_is_refused_without_opening_a_file(world, arguments, message):
    with pytest.raises(InputError) as caught:
        check_judge(JudgeSettings(*arguments), world)
    assert message in str(caught.value)


def open_bad(files, name, **changes):
    given = settings(files, name)
    given = {"name": name, "model": given.model, "template": given.template, **changes}
    with pytest.raises(InputError) as caught:
        open_judge(JudgeSettings(**given), "real")
    return str(caught.value)


def test_models_of_another_kind_are_refused_before_anything_is_judged(files, tmp_path):
    assert "no chat template" in open_bad(files, "guard", model=str(files / "yes_no"))
    assert "architectures is" in open_bad(files, "qa_moderation", model=str(files / "guard"))
    assert "expected LlamaForCausalLM" in open_bad(files, "guard", model=str(files / "moderation"))
    assert "no such folder" in open_bad(files, "harmbench", model=str(tmp_path / "none"))
    shutil.copytree(files / "guard", tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    assert "model.safetensors" in open_bad(files, "guard", model=str(tmp_path / "half"))
    shutil.copytree(files / "moderation", tmp_path / "endless")
    tokenizer = load_tokenizer(str(files / "moderation"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    assert "no end token" in open_bad(files, "qa_moderation", model=str(tmp_path / "endless"))
    assert "no chat template" in open_bad(files, "strongreject", model=str(files / "yes_no"))
    assert "no {forbidden_prompt}" in open_bad(files, "strongreject", template=str(files / "question.txt"))
    (tmp_path / "question.txt").write_text(TEMPLATE + " {context}")
    assert "{context}" in open_bad(files, "harmbench", template=str(tmp_path / "question.txt"))
    assert "no such file" in open_bad(files, "harmbench", template=str(tmp_path / "none.txt"))
