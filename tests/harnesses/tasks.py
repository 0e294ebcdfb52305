"""Local tasks of lm-evaluation-harness: one of each kind of request, over the words of the tiny base."""

import json
import random

from tests.tiny_base import WORDS

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
GENERATE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: {until}, max_gen_toks: {tokens}, do_sample: false}}
filter_list:
  - name: found
    filter: [{{function: regex, regex_pattern: '{pattern}'}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def save_task(folder, name, text, rows, **fields):
    """Write a task and its rows."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(text.format(name=name, rows=path, **fields))


def save_tiny_tasks(folder, count=40):
    """Write three tasks over the words of the tiny base; returns their names."""
    folder.mkdir()
    draw = random.Random(0)

    def words(low, high):
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    choices = [
        {"prompt": words(0, 9), "choices": [words(1, 3) for _ in range(4)], "answer": draw.randrange(4)}
        for _ in range(count)
    ]
    texts = [{"text": words(1, 20) if i % 8 else words(130, 150)} for i in range(count // 2)]
    prompts = [{"prompt": words(1, 12), "answer": draw.choice(WORDS[:12])} for _ in range(count)]
    save_task(folder, "tiny_choice", CHOICE, choices)
    save_task(folder, "tiny_rolling", ROLLING, texts)
    pattern = f"({'|'.join(WORDS[:12])})"
    save_task(
        folder, "tiny_generate", GENERATE, prompts, until='["then", "slowly stir"]', tokens=12, pattern=pattern
    )
    return ["tiny_choice", "tiny_rolling", "tiny_generate"]


def save_real_tasks(folder, rows, count=200):
    """Write three tasks over the rows of SST-2, AG News and GSM8K that ``rows`` holds; returns their names."""
    folder.mkdir()

    def read(name):
        with (rows / f"{name}.test.jsonl").open() as lines:
            return [json.loads(next(lines)) for _ in range(count)]

    sentiments = [
        {
            "prompt": f"Review: {row['input'].strip()}\nThe sentiment of this review is",
            "choices": ["negative", "positive"],
            "answer": ["negative", "positive"].index(row["output"]),
        }
        for row in read("sst2")
    ]
    save_task(folder, "real_sst2", CHOICE, sentiments)
    save_task(folder, "real_ag_news", ROLLING, [{"text": row["input"]} for row in read("ag_news")])
    problems = [
        {"prompt": f"{row['instruction'].strip()}\n", "answer": row["output"].rsplit(" ", 1)[1]}
        for row in read("gsm8k")
    ]
    pattern = "(-?[0-9][0-9,]*)(?![^\\n]*[0-9])"
    save_task(folder, "real_gsm8k", GENERATE, problems, until='["\\n\\n"]', tokens=64, pattern=pattern)
    return ["real_sst2", "real_ag_news", "real_gsm8k"]
