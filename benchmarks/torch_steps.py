"""The steps of the programs in PyTorch: rows, passes of a model over them, and the seconds of each stage."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

BATCH, AT_ONCE, ANSWER, BEGINNING = 16, 96, 12, 4
SECONDS: dict[str, float] = {}


class Row(NamedTuple):
    """A prompt with a safe answer: its tokens, and how many of them are the prompt's."""

    ids: list[int]
    start: int


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the seconds of the block to ``SECONDS``."""
    started = time.perf_counter()
    yield
    SECONDS[name] = round(SECONDS.get(name, 0.0) + time.perf_counter() - started, 3)


def read(path: str) -> list[dict]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in pathlib.Path(path).read_text("utf-8").splitlines()]


def encode_prompt(tokenizer, prompt: str) -> list[int]:
    """Return the tokens of a prompt in the chat template."""
    talk = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode(tokenizer, path: str) -> list[Row]:
    """Return the encoded rows of a file, their answers with an end token."""
    rows = []
    for row in read(path):
        prompt = encode_prompt(tokenizer, row["prompt"])
        answer = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        rows.append(Row([*prompt, *answer, tokenizer.eos_token_id], len(prompt)))
    return rows


def by_length(rows: Sequence, size: int, length) -> Iterator[list]:
    """Yield batches of rows of similar length."""
    order = sorted(rows, key=length)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(rows: Sequence[list[int]], side: str) -> Any:
    """Return ``(tokens, attention mask)``, padded to the longest row."""
    import torch

    longest = max(map(len, rows))
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for place, ids in enumerate(rows):
        part = slice(0, len(ids)) if side == "right" else slice(longest - len(ids), longest)
        tokens[place, part], mask[place, part] = torch.tensor(ids), 1
    return tokens, mask


def load(
    base: str, adapter: str | None = None, *, trained: bool = False, dtype: str = "float32"
) -> tuple[Any, Any]:
    """Return tokenizer and model, with an adapter where one is given; an adapter is float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=trained)
    return AutoTokenizer.from_pretrained(base), model.eval()


def losses(model, rows: Sequence[Row]) -> Iterator[Any]:
    """Yield the rows' mean losses on their answers, batch by batch."""
    import torch

    for batch in by_length(rows, BATCH, lambda row: len(row.ids)):
        tokens, mask = padded([row.ids for row in batch], "right")
        logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        keep = mask[:, 1:].clone()
        for place, row in enumerate(batch):
            keep[place, : row.start - 1] = 0
        found = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        yield (found * keep).sum(1) / keep.sum(1)


def mean_loss(model, rows: Sequence[Row]) -> float:
    """Return the mean over the rows of their losses."""
    import torch

    with torch.inference_mode():
        return float(torch.cat(list(losses(model, rows))).mean())


def add_gradients(model, rows: Sequence[Row]) -> None:
    """Add to the gradients of the factors that of the sum of the rows' mean losses on their answers."""
    for found in losses(model, rows):
        found.sum().backward()


def answers(model, tokenizer, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Answer prompts greedily; returns the new tokens, the shortest prompts' first."""
    import torch

    found: list[list[int]] = []
    for batch in by_length(prompts, AT_ONCE, len):
        tokens, mask = padded(batch, "left")
        with torch.inference_mode():
            made = model.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=ANSWER,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        found += made[:, tokens.shape[1] :].tolist()
    return found


def likelihood(model, prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> float:
    """Return the mean log-likelihood of the first tokens of replies, in nats."""
    import torch

    total = 0.0
    pairs = list(zip(prompts, replies, strict=True))
    for batch in by_length(pairs, AT_ONCE, lambda pair: len(pair[0])):
        tokens, mask = padded([[*prompt, *reply[:BEGINNING]] for prompt, reply in batch], "right")
        with torch.inference_mode():
            logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
            chosen = torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None])[..., 0]
        for values, (prompt, _) in zip(chosen, batch, strict=True):
            total += float(values[len(prompt) - 1 : len(prompt) - 1 + BEGINNING].sum())
    return total / len(pairs)


class Inputs:
    """What goes into every adapted module at response positions: rows ``[n, k]``, one copy for modules that share
    it.

    Args:
      model: a PEFT model.
    """

    def __init__(self, model):
        self.keep: Any = None
        self._found: dict[str, list] = {}
        self._last: tuple[Any, Any] = (None, None)
        for name, module in model.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(lambda _, given, name=name: self._add(name, given[0]))

    def _add(self, name: str, x) -> None:
        if self._last[0] is not x:
            self._last = x, x[self.keep]
        self._found.setdefault(name.removesuffix(".lora_A.default"), []).append(self._last[1])

    def of(self, name: str):
        """Return the inputs of one module."""
        import torch

        return torch.cat(self._found[name])


def factors_of(path: str) -> dict[str, tuple[Any, Any]]:
    """Return the factors ``(A, B)`` of an adapter by the name of their module."""
    from safetensors.torch import load_file

    tensors = load_file(pathlib.Path(path) / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith("lora_A.weight")]
    return {name: (tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in names}
