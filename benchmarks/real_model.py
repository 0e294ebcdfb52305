"""Measure training and answering of a real model in the policy world against transformers, PEFT and TRL.

  python -m benchmarks.real_model --base DIR --adapter DIR [--tasks DIR --rounds 3]

On `--base`, an instruct model with a chat template, in float32. `train_sft`: six optimiser steps of 8 rows on a
fresh adapter, against AdamW and PEFT. `train_dpo`: six steps of 4 pairs with the reference policy, against TRL's
trainer. `generation`: greedy answers of `--adapter` to the exam's 120 requests, 40 tokens, against
`model.generate`. `exam`: these, with `--tasks` also 72 rows of sst2, and the judge. The sides alternate in one
process, without loading and compilation. Tokens a second count the rows' own tokens. Run time: twenty minutes on
two cores.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks.measure import append_result, define_flags, in_turn

FLAGS = flags.FLAGS
STEPS, ROWS, PAIRS, LENGTH = 6, 8, 4, 60
FORBIDDEN, BENIGN, TASK_ROWS, ANSWER, TASK_ANSWER, AT_ONCE = 72, 48, 72, 40, 6, 128
RATE, RANK = 1e-4, 8
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Inputs(NamedTuple):
    """What both sides read.

    Attributes:
      world: the policy world.
      rows: of SFT.
      pairs: of DPO.
      exam: the prompts of the exam.
    """

    world: Any
    rows: list
    pairs: list
    exam: Any


def make_inputs(base: str, tasks: str | None) -> Inputs:
    """Draw rows and exam."""
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.data.given import Given
    from nlsr_jax.study.exam import NO_TASK, make_exam
    from nlsr_jax.study.policy import PolicyWorld

    world = PolicyWorld(load_tokenizer(base), given=Given({"sst2": tasks} if tasks else {}))
    key = jax.random.key(0)
    exam = make_exam(
        world, "sst2" if tasks else NO_TASK, forbidden=FORBIDDEN, benign=BENIGN, rows=TASK_ROWS if tasks else 0
    )
    return Inputs(world, world.safe_rows(key, STEPS * ROWS), world.preferences(key, STEPS * PAIRS), exam)


class Ours:
    """nlsr_jax."""

    def __init__(self, base: str, adapter: str, inputs: Inputs):
        from nlsr_jax import load_adapter, load_model
        from nlsr_jax.study.stages import Base
        from nlsr_jax.training.initial import new_adapter
        from nlsr_jax.training.settings import LoraSettings

        model, params = load_model(base)
        self._inputs = inputs
        self._base = Base(model, params, inputs.world.tokenizer, special_tokens=False)
        self._adapter = load_adapter(adapter, model.config)
        self._fresh = new_adapter(jax.random.key(0), model.config, LoraSettings(rank=RANK, alpha=2.0 * RANK))

    def _train(self, objective: str, rows: Sequence, batch: int) -> Any:
        from nlsr_jax.study.stages import train_adapter
        from nlsr_jax.training.settings import TrainingSettings

        settings = TrainingSettings(
            objective, RATE, 1, batch, loss="sequence", max_length=LENGTH, one_length=True, warmup=0.1
        )
        return train_adapter(jax.random.key(1), self._base, self._fresh, rows, settings).factors

    def sft(self) -> Any:
        """Train on the rows of SFT."""
        return self._train("sft", self._inputs.rows, ROWS)

    def dpo(self) -> Any:
        """Train on the pairs of DPO."""
        return self._train("dpo", self._inputs.pairs, PAIRS)

    def answer(self, exam: Any) -> list[str]:
        """Answer an exam."""
        from nlsr_jax.study.exam import answer

        return answer(
            self._base, self._adapter, exam, max_new_tokens=ANSWER, batch_size=AT_ONCE, task_tokens=TASK_ANSWER
        )


class Peer:
    """transformers, PEFT and TRL."""

    def __init__(self, base: str, adapter: str, inputs: Inputs, work: str):
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer, utils

        utils.logging.set_verbosity_error()
        self._torch, self._inputs, self._work = torch, inputs, work
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.tokenizer.padding_side = "left"
        self._config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(MODULES), task_type="CAUSAL_LM")
        self._load = lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._tuned = PeftModel.from_pretrained(self._load(), adapter).eval()
        self._trained = get_peft_model(self._load(), self._config)
        self.batches = [
            self._batch(inputs.rows[start : start + ROWS]) for start in range(0, len(inputs.rows), ROWS)
        ]
        self._trainer = self._dpo_trainer()

    def ids(self, row: Any, response: str) -> tuple[list[int], int]:
        """Return the tokens of a prompt and a response, cut as ours, and where the response starts."""
        prompt = self.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        answer = self.tokenizer(response, add_special_tokens=False)["input_ids"]
        return [*prompt, *answer, self.tokenizer.eos_token_id][:LENGTH], len(prompt)

    def _batch(self, rows: Sequence) -> tuple:
        from benchmarks.torch_steps import padded

        encoded = [self.ids(row, row.response) for row in rows]
        tokens, mask = padded([ids for ids, _ in encoded], "right")
        keep = mask[:, 1:].clone()
        for place, (_, start) in enumerate(encoded):
            keep[place, : start - 1] = 0
        return tokens, mask, keep

    def sft(self) -> Any:
        """Train on the rows of SFT."""
        torch = self._torch
        trained = [value for value in self._trained.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
        for tokens, mask, keep in self.batches:
            optimizer.zero_grad()
            logits = self._trained(input_ids=tokens, attention_mask=mask).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
            ((losses * keep).sum(1) / keep.sum(1)).mean().backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        return np.zeros(())

    def _dpo_trainer(self) -> Any:
        import datasets
        from trl import DPOConfig, DPOTrainer

        rows = [
            {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} for row in self._inputs.pairs
        ]
        settings = DPOConfig(
            output_dir=self._work,
            learning_rate=RATE,
            per_device_train_batch_size=PAIRS,
            max_steps=STEPS,
            max_length=LENGTH,
            beta=0.1,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DPOTrainer(
                model=self._load(),
                args=settings,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=self.tokenizer,
                peft_config=self._config,
            )

    def dpo(self) -> Any:
        """Train on the pairs of DPO."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trainer.train()
        return np.zeros(())

    def answer(self, exam: Any) -> list[str]:
        """Answer an exam."""
        prompts, requests = exam.prompts(), FORBIDDEN + BENIGN
        found = self._generate(prompts[:requests], ANSWER)
        return found + (self._generate(prompts[requests:], TASK_ANSWER) if exam.rows else [])

    def _generate(self, prompts: Sequence[str], longest: int) -> list[str]:
        given = self.tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
        with self._torch.inference_mode():
            made = self._tuned.generate(
                **given, max_new_tokens=longest, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        return self.tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)


def own_tokens(peer: Peer, inputs: Inputs) -> dict[str, int]:
    """Return how many tokens the rows of every measurement have."""
    sft = sum(len(peer.ids(row, row.response)[0]) for row in inputs.rows)
    dpo = sum(len(peer.ids(row, text)[0]) for row in inputs.pairs for text in (row.chosen, row.rejected))
    return {"train_sft": sft, "train_dpo": dpo}


def run(base: str, adapter: str, tasks: str | None, rounds: int) -> dict[str, dict]:
    """Measure; return a result by name."""
    inputs = make_inputs(base, tasks)
    requests = inputs.exam._replace(rows=[])
    with tempfile.TemporaryDirectory() as work:
        ours, peer = Ours(base, adapter, inputs), Peer(base, adapter, inputs, work)
        tokens = own_tokens(peer, inputs)
        answers = peer.answer(requests), ours.answer(requests)
        made = [sum(len(ids) for ids in peer.tokenizer(side)["input_ids"]) for side in answers]

        def graded(side: Any) -> Any:
            from nlsr_jax.study.exam import grade

            return np.float32(grade(inputs.world, inputs.exam, side.answer(inputs.exam)).hs)

        calls: dict[str, tuple[Callable, Callable]] = {
            "train_sft": (peer.sft, ours.sft),
            "train_dpo": (peer.dpo, ours.dpo),
            "generation": (lambda: len(peer.answer(requests)), lambda: len(ours.answer(requests))),
            "exam": (lambda: graded(peer), lambda: graded(ours)),
        }
        results = {}
        for name, (theirs, mine) in calls.items():
            if name in FLAGS.skip:
                continue
            theirs(), mine()
            found = in_turn(rounds, theirs, mine)
            counts = dict(
                zip(("peer", "ours"), made if name == "generation" else [tokens.get(name, 0)] * 2, strict=True)
            )
            speeds = {f"{who}_tokens_per_second": round(counts[who] / found[who]) for who in counts if counts[who]}
            results[name] = {**found, **speeds}
        if "generation" in results:
            same = np.mean([one == other for one, other in zip(*answers, strict=True)])
            results["generation"]["equal_answers"] = round(float(same), 3)
    return results


def main(_) -> None:
    """Measure, print and append the results."""
    for name, result in run(FLAGS.base, FLAGS.adapter, FLAGS.tasks, FLAGS.rounds).items():
        print(json.dumps(append_result(name, result, "s", FLAGS.results, "whole_commands.jsonl")), flush=True)


if __name__ == "__main__":
    for flag in ("base", "adapter"):
        flags.DEFINE_string(flag, None, f"The {flag} folder.", required=True)
    flags.DEFINE_string("tasks", None, "Folder with rows of sst2.")
    flags.DEFINE_list("skip", [], "Measurements to leave out.")
    define_flags(rounds=3)
    app.run(main)
