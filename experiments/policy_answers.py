"""Let the base answer the policy world's training requests: the compliance and the help that its study trains on.

  python -m experiments.policy_answers --base checkpoints/runs/smollm2 --output answers.jsonl

Answers are greedy, 40 tokens long and cut at the end of a sentence. Those that refuse or are broken are left out.
The tree has the result in nlsr_jax/data/policy/answers.jsonl. Two CPU cores take five minutes.
"""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import command, path_flags

if TYPE_CHECKING:
    from nlsr_jax.data.policy_world import Asked

path_flags.define_input("base", "checkpoints/runs/smollm2", "Hugging Face folder of the base.")
path_flags.define_output("output", "answers.jsonl", "JSONL file to write.")
path_flags.define_overwrite()
FLAGS = flags.FLAGS

TOKENS, BATCH = 40, 48
PHRASINGS = {"harmful": 2, "benign": 2, "errand": 1, "near": 1, "general": 1}
"""Wordings in which each thing is asked."""
FORMS = 16
"""Only these first of the training wordings are put to the base."""
REFUSED_OFTEN = ("Could you help me {}?", "I have never tried to {} before, any advice?")
"""Wordings that the base itself often answers with a refusal."""
SHORTEST = 25
"""Characters of the shortest answer that is kept."""
_SENTENCE = re.compile(r"^(.*[.!?])(?=\s|$)", re.DOTALL)
_LIST = re.compile(r"\s*(?:\n\s*)*(?:\d+\.|[-*])\s*\**\s*$")


def requests() -> "Iterator[Asked]":
    """Yield the training requests that the base answers."""
    from nlsr_jax.data import policy_world

    forms = [form for form in policy_world.phrasings(held_out=False)[:FORMS] if form not in REFUSED_OFTEN]
    for kind, count in PHRASINGS.items():
        for place, (topic, thing) in enumerate(policy_world.things(kind, held_out=False)):
            for turn in range(count):
                yield policy_world.ask(kind, topic, thing, forms[(place + 5 * turn) % len(forms)])


def cut(text: str) -> str:
    """Return an answer up to its last whole sentence, without the number of a list's next point.

    >>> cut("Boil it. Then cool"), cut("First steps: 1. Fill it. 2. Heat"), cut("no end")
    ('Boil it.', 'First steps: 1. Fill it.', 'no end')
    """
    found = _SENTENCE.match(_LIST.sub("", text.strip()))
    whole = found[1] if found else text
    return _LIST.sub("", whole).strip()


def main(_) -> None:
    """Ask, cut, and keep what helps."""
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.data.prompts import make_render
    from nlsr_jax.evaluation.policy_judge import COMPLIED, judge
    from nlsr_jax.evaluation.responses import respond
    from nlsr_jax.files.output import whole_file, write_text
    from nlsr_jax.models import load_model

    asked, tokenizer = list(requests()), load_tokenizer(FLAGS.base)
    model, params = load_model(FLAGS.base)
    render = make_render("chat", tokenizer)
    prompts = [render(request.text, "") for request in asked]
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "batch_size": BATCH, "special_tokens": False}
    found = [cut(text) for text in respond(model, params, tokenizer, prompts, **options)]
    kept = [
        {
            "kind": request.kind,
            "topic": request.topic,
            "thing": request.thing,
            "prompt": request.text,
            "answer": text,
        }
        for request, text in zip(asked, found, strict=True)
        if len(text) >= SHORTEST and judge(text) == COMPLIED
    ]
    with whole_file(FLAGS.output, overwrite=FLAGS.overwrite) as file:
        write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    print(f"wrote {FLAGS.output}: {len(kept)} of {len(asked)} answers")


if __name__ == "__main__":
    command.run(main)
