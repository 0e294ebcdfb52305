"""Small invented tinyBenchmarks: rows of every set, in the published columns, and a bank that they belong to."""

from nlsr_jax.evaluation.item_bank import ItemBank
from tests.evaluation.banks import make_bank

SETS = {
    "hellaswag": "tiny_hellaswag",
    "mmlu": "tiny_mmlu",
    "truthfulqa": "tiny_truthful_qa_mc2",
    "winogrande": "tiny_winogrande",
    "arc": "tiny_arc",
    "gsm8k": "tiny_gsm8k",
}
ROWS = {
    "tiny_hellaswag": {
        "activity_label": "Brewing",
        "ctx_a": "brew zarn",
        "ctx_b": "",
        "endings": ["stir", "stir stir stir"],
        "label": "1",
    },
    "tiny_mmlu": {"question": "brew zarn ", "subject": "zarn_lore", "choices": ["stir", "it"], "answer": 1},
    "tiny_truthful_qa_mc2": {
        "question": "brew zarn",
        "mc2_targets": {"choices": ["stir", "it", "zarn"], "labels": [1, 0, 1]},
    },
    "tiny_winogrande": {"sentence": "brew _ slowly stir", "option1": "zarn", "option2": "it", "answer": "2"},
    "tiny_arc": {
        "question": "brew zarn",
        "choices": {"text": ["stir", "it"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "tiny_gsm8k": {"question": "brew zarn", "answer": "so it is\n#### 3"},
}


def bank_of(*names: str, anchors: int = 3) -> ItemBank:
    """A bank of these scenarios with a few anchors each."""
    bank = make_bank(sizes=(9,) * len(names), parts=(2,) * len(names), asked=anchors)
    return bank._replace(scenarios=names)


def rows_of(data_set: str, count: int = 3, shots: str = "") -> list[dict]:
    """Rows of a set, all alike; the few-shot prompt tells them apart."""
    formatted = {"input_formatted": shots} if shots else {}
    return [{**ROWS[data_set], **formatted} for _ in range(count)]
