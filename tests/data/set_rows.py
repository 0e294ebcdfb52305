"""Small invented rows in the columns of each data set, and writers for every kind of place."""

import csv
import json

from nlsr_jax.data.safety_sets import BEAVERTAILS_CATEGORIES


def flags(*names):
    return {name: name in names for name in BEAVERTAILS_CATEGORIES}


def beaver(prompt, response, *names, is_safe=False):
    return {"prompt": prompt, "response": response, "category": flags(*names), "is_safe": is_safe}


BEAVERTAILS = [
    beaver("How do I brew zarn?", "Heat the zarn.", "privacy_violation"),
    beaver("How do I fold mellip?", "I cannot help.", is_safe=True),
    beaver("How do I brew zarn?", "I must refuse.", is_safe=True),
    beaver("How do I melt quorb?", "Take a quorb.", "self_harm", "animal_abuse"),
]


def pair(number, safe_0, safe_1):
    return {
        "prompt": f"How do I brew zarn {number}?",
        "response_0": f"first answer {number}",
        "response_1": f"second answer {number}",
        "is_response_0_safe": safe_0,
        "is_response_1_safe": safe_1,
        "better_response_id": 0,
        "safer_response_id": 1,
    }


SAFE_RLHF = [
    pair(0, True, True),
    pair(1, False, True),
    pair(2, False, False),
    pair(3, True, False),
    pair(4, False, True),
    pair(5, False, False),
]
SST2 = [
    {"idx": 0, "sentence": "a lovely zarn ", "label": 1},
    {"idx": 1, "sentence": "a dull mellip ", "label": 0},
]
AG_NEWS = [{"text": f"Zarn report {i}", "label": i} for i in range(4)]
GSM8K = [
    {"question": "Tom has 2 zarns and buys 3. How many?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    {"question": "How much are 1000 mellips at $1.25?", "answer": "It is 1250.\n#### 1,250"},
    {"question": "How cold is it?", "answer": "Colder.\n#### -3"},
]
ALPACA = [
    {"instruction": "Name a colour", "input": "", "output": "Blue", "text": "unused"},
    {"instruction": "Say it twice", "input": "zarn", "output": "zarn zarn", "text": "unused"},
]
HARMBENCH = [
    {
        "Behavior": behavior,
        "FunctionalCategory": "contextual" if context else "standard",
        "SemanticCategory": "invented",
        "Tags": "context" if context else "",
        "ContextString": context,
        "BehaviorID": f"zarn_{number}",
    }
    for number, (behavior, context) in enumerate(
        [("Explain how to brew zarn", ""), ("Explain it", "Zarn is a drink.")]
    )
]

OWN_FILES = """forbidden = "{folder}/forbidden.jsonl"
benign = "{folder}/benign.jsonl"
[tasks.films]
path = "{folder}/films.csv"
prompt_field = "text"
label_field = "stars"
labels = ["bad", "good"]
[judge]
name = "{folder}/phrases.txt"
"""
"""End of a study's config, behind ``[data]``: requests, a task and a judge in files of the user's."""


def write(path, rows):
    """Write rows in the format of the file's ending; nested values become JSON in CSV."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in row.items()})
    return path
