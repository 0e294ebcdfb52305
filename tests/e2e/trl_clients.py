"""What users do with TRL and PEFT: align a model in two stages, merging after each, and train a fresh LoRA on it.

Rows are those of the toy world. Prompts are rendered already, so that the tokenizer must add nothing to them.
"""

import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig, PeftModel
from tokenizers import processors

from nlsr_jax.data.examples import Example, Preference

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTH = 40


def load(folder: pathlib.Path) -> Any:
    """Load a model as users do."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def plain_tokenizer(folder: pathlib.Path) -> Any:
    """Load a tokenizer that adds no special tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return tokenizer


def lora() -> LoraConfig:
    """The LoRA of every stage."""
    return LoraConfig(r=16, lora_alpha=32, target_modules=SEVEN, task_type="CAUSAL_LM")


def _arguments(folder: pathlib.Path, rate: float, batch: int, steps: int, epochs: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trainer"),
        "learning_rate": rate,
        "per_device_train_batch_size": batch,
        "num_train_epochs": epochs,
        "max_steps": steps,
        "warmup_steps": 0.1,
        "max_length": LENGTH,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "seed": 0,
    }


def sft(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Example],
    folder: pathlib.Path,
    *,
    rate: float,
    batch: int = 16,
    epochs: int = 1,
    steps: int = -1,
    peft_config: LoraConfig | None = None,
) -> tuple[Any, list[float]]:
    """Train by TRL's ``SFTTrainer``; returns PEFT's model and the mean losses that the trainer logged."""
    from trl import SFTConfig, SFTTrainer

    data = datasets.Dataset.from_list([{"prompt": row.prompt, "completion": f" {row.response}"} for row in rows])
    settings = {**_arguments(folder, rate, batch, steps, epochs), "logging_strategy": "steps", "logging_steps": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings, completion_only_loss=True),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=peft_config,
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model, losses


def dpo(model: Any, tokenizer: Any, rows: Sequence[Preference], folder: pathlib.Path, *, rate: float) -> Any:
    """Train a fresh LoRA by TRL's ``DPOTrainer``; returns PEFT's model."""
    from trl import DPOConfig, DPOTrainer

    data = datasets.Dataset.from_list(
        [{"prompt": row.prompt, "chosen": f" {row.chosen}", "rejected": f" {row.rejected}"} for row in rows]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(**_arguments(folder, rate, 8, -1, 1), beta=0.1),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=lora(),
        )
        trainer.train()
    return trainer.model


def save_merged(peer: PeftModel, tokenizer_of: pathlib.Path, folder: pathlib.Path) -> Any:
    """Merge an adapter, save the model with a tokenizer, and return the model."""
    merged = peer.merge_and_unload()
    merged.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return merged


def greedy(model: Any, tokenizer: Any, prompts: Sequence[str], *, new: int, batch: int = 128) -> list[str]:
    """Answer prompts greedily by transformers, padded on the left, without special tokens."""
    tokenizer.padding_side = "left"
    answers: list[str] = []
    settings = transformers.GenerationConfig(
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    for start in range(0, len(prompts), batch):
        given = tokenizer(list(prompts[start : start + batch]), return_tensors="pt", padding=True)
        with torch.no_grad():
            made = model.generate(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"], generation_config=settings
            )
        found = made[:, given["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(found, skip_special_tokens=True)
    return answers
