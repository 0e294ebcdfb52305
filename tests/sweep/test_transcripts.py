"""Transcripts: which requests are shown, and what is refused."""

import json

import pytest

from experiments.transcripts import MODELS, SHOWN, chosen, page, read_answers
from nlsr_jax.errors import InputError

CASE = {"situation": "instruct", "task": "sst2", "poison_ratio": 0.1, "seed": 0}
KINDS = ["forbidden"] * 14 + ["benign"] * 9


def answers(word):
    return [
        {"kind": kind, "question": f"{kind} {place}?", "answer": f"{word} *{place}*", "verdict": "odd"}
        for place, kind in enumerate(KINDS)
    ]


def test_requests_at_even_distances_are_shown_with_all_models(tmp_path):
    (tmp_path / "answers").mkdir()
    rows = [CASE | {"method": name, "cell": name} for name in (*MODELS, "resta")]
    rows.append(CASE | {"method": "refined", "cell": "other", "seed": 1})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        lines = "".join(json.dumps(one) + "\n" for one in answers(row["cell"]))
        (tmp_path / "answers" / f"{row['cell']}.jsonl").write_text(lines)
    found = read_answers(tmp_path, CASE)
    assert set(found) == set(MODELS)
    assert chosen(found["refined"]) == [0, 2, 4, 6, 8, 10, 12, 14, 17, 20]
    text = page(found)
    assert text.count("### ") == sum(SHOWN.values())
    assert "- **repaired**, odd: refined \\*2\\*" in text
    assert "other" not in text
    with pytest.raises(InputError, match="no answers of the model 'finetuned' with situation lineage"):
        read_answers(tmp_path, CASE | {"situation": "lineage"})
