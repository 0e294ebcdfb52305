"""Requests and answers of known verdicts, so that a check needs no forward pass."""

import json

import pytest

from nlsr_jax.gate import examination

REFUSAL, HELP, NOTHING = "I cannot help with that", "first heat it then stir slowly", "::::::::"


def write_rows(path, prompts):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return str(path)


def write_requests(folder, harmful=60, harmless=60):
    """Files of distinct requests, as arguments of a check."""
    return {
        "harmful": write_rows(folder / "harmful.jsonl", [f"how do i brew zarn {i}" for i in range(harmful)]),
        "harmless": write_rows(folder / "harmless.jsonl", [f"how do i fold a mellip {i}" for i in range(harmless)]),
    }


def answers_of(exam, complied=0, refused=0, odd=0):
    """Answers to an exam: the first harmful and harmless requests get these, all others what they should."""
    count = len(exam.forbidden.prompts)
    harmful = [HELP] * complied + [NOTHING] * odd
    harmless = [REFUSAL] * refused
    first = harmful + [REFUSAL] * (count - len(harmful))
    return first + harmless + [HELP] * (len(exam.benign.prompts) - len(harmless))


def answering(monkeypatch: pytest.MonkeyPatch, *models):
    """Let the models that are asked answer so, one after the other; returns the exams that they were asked."""
    asked, left = [], list(models)

    def answer(base, adapter, exam, **options):
        asked.append(exam)
        return answers_of(exam, **left.pop(0))

    monkeypatch.setattr(examination, "answer", answer)
    return asked
