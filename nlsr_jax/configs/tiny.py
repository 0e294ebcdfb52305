"""The built-in default: a toy world and a base of 0.75 M parameters; everything takes minutes on two CPU cores.

  nlsr pretrain --output checkpoints/runs/base          # 5 minutes
  nlsr align --objective sft --output checkpoints/runs/sft
  nlsr align --objective dpo --start checkpoints/runs/sft --output checkpoints/runs/dpo
  nlsr finetune --start checkpoints/runs/dpo --task sst2 --output checkpoints/runs/tuned
  nlsr evaluate --adapter checkpoints/runs/tuned --task sst2 --output checkpoints/runs/tuned.json

Without --base they use the shipped base in checkpoints/tiny-llama3/base. An installed package has a copy of the
base and adapters beside this file; in the source tree it is a link.
"""

import pathlib

from nlsr_jax.study.config import ExamSettings, Pretraining, Stage, StudyConfig
from nlsr_jax.training.settings import LoraSettings, TrainingSettings

ROOT = pathlib.Path(__file__).parents[2]
_NAME = "tiny-llama3"
_IN_TREE = ROOT / "checkpoints" / _NAME
SHIPPED = _IN_TREE if _IN_TREE.is_dir() else pathlib.Path(__file__).with_name(_NAME)
LLAMA = (
    ("model_type", "llama"),
    ("architectures", ("LlamaForCausalLM",)),
    ("hidden_size", 96),
    ("intermediate_size", 256),
    ("num_hidden_layers", 6),
    ("num_attention_heads", 4),
    ("num_key_value_heads", 2),
    ("max_position_embeddings", 256),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 10000.0),
    ("tie_word_embeddings", False),
    ("hidden_act", "silu"),
)


def _training(objective: str, rate: float, epochs: int, batch_size: int, **changes) -> TrainingSettings:
    return TrainingSettings(
        objective, rate, epochs, batch_size, warmup=0.1, max_length=40, one_length=True, save_every=100, **changes
    )


def get_config() -> StudyConfig:
    """Return the study."""
    sft = Stage(800, _training("sft", 2e-4, 1, 16))
    return StudyConfig(
        name="tiny",
        world="toy",
        base=str(SHIPPED / "base"),
        template="chat",
        lora=LoraSettings(rank=16, alpha=32.0),
        sft=sft,
        alignment={
            "sft": sft,
            "dpo": Stage(800, _training("dpo", 5e-5, 1, 8)),
            "orpo": Stage(800, _training("orpo", 1.5e-4, 1, 8)),
            "kto": Stage(1600, _training("kto", 5e-5, 1, 16)),
            "simpo": Stage(800, _training("simpo", 4e-5, 1, 8)),
        },
        anew={
            "dpo": Stage(800, _training("dpo", 1.4e-4, 1, 8)),
            "orpo": Stage(800, _training("orpo", 5e-4, 1, 8)),
            "kto": Stage(1600, _training("kto", 1.5e-4, 1, 16)),
            "simpo": Stage(800, _training("simpo", 1.2e-4, 1, 8)),
        },
        finetuning=Stage(1000, _training("sft", 2.2e-4, 5, 8, loss="sequence")),
        poison_ratio=0.05,
        calibration_rows=400,
        exam=ExamSettings(forbidden=336, benign=200, rows=300, max_new_tokens=22, task_tokens=22, batch_size=836),
        pretraining=Pretraining(
            LLAMA, 2000 * 32, TrainingSettings("sft", 3e-3, 1, 32, warmup=0.05, max_length=64,
                                                      one_length=True, save_every=100)
        ),
    )  # fmt: skip
