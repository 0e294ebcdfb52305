"""The fields of ``adapter_config.json`` by their effect on the forward pass: the one list of what may be ignored.

The lists follow PEFT's source (``LoraConfig``, the LoRA layers and their variants). A field is inert if a finished
adapter computes the same with any value of it. A field that is in no list and is on (not null, false, 0 or empty)
is refused by name, because it may change what the weights mean.
"""

import re
from collections.abc import Mapping
from typing import Any

from nlsr_jax.errors import argument
from nlsr_jax.files.fields import unexpected

PLAIN = (
    "merge it into its base with PEFT's merge_and_unload, save the model with save_pretrained, and give its folder "
    f"as {argument('finetuned')}, beside {argument('base')}"
)
"""What the owner of an adapter that is not plain LoRA can do."""

READ = (
    *("peft_type", "task_type", "auto_mapping", "init_lora_weights", "bias"),
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "trainable_token_indices", "ensure_weight_tying"),
)
"""Fields that are read and checked."""

INERT = (
    # Where the adapter came from and how it is to be loaded.
    *("peft_version", "base_model_name_or_path", "revision", "inference_mode", "runtime_config", "ephemeral"),
    *("ephemeral_gpu_offload", "lora_dtype"),
    # What the file itself is, as model cards and configs of models say it.
    *("library_name", "license", "tags", "language", "pipeline_tag", "model_type", "architectures", "torch_dtype"),
    *("transformers_version", "model_name", "base_model", "description", "_name_or_path", "unsloth_version"),
    # Training alone: dropout, when weights are merged, how activations are kept.
    *("lora_dropout", "merge_weights", "use_gradient_checkpointing", "gradient_checkpointing"),
    # Learning rates of LoRA+, which trainers write here; see ``is_inert`` for their other names.
    *("loraplus_lr_ratio", "loraplus_lr_embedding", "loraplus_weight_decay", "lorap_lr_ratio", "lorap_emb_lr"),
    # Which class holds the layers of Megatron models; the names of the tensors say what they are factors of.
    *("megatron_config", "megatron_core"),
    # How base weights are stored: factors of Conv1D layers have the shapes of Linear's, a merge alone transposes.
    "fan_in_fan_out",
    # Read by PEFT only together with a field or an initialisation that is refused where it is on.
    *("qalora_group_size", "loftq_config", "corda_config", "lora_ga_config", "eva_config"),
)
"""Fields that do not change what a finished adapter computes."""
_LEARNING_RATE = re.compile(r"(?:.*_)?(?:lr|learning_rate)(?:_(?:ratio|multiplier|scale|scheduler\w*))?")

REASONS = {
    "use_dora": "DoRA rescales the base weights, which factors alone cannot hold",
    "lora_bias": "a bias of the factors cannot be held",
    "layer_replication": "replicated layers change the base model",
    "use_qalora": "QA-LoRA pools the inputs",
    "alora_invocation_tokens": "activated LoRA depends on the position of a token",
    "use_bdlora": "block-diagonal factors are not plain LoRA",
    "arrow_config": "a routed mixture of adapters is not one adapter",
    "kasa_config": "KaSA changes the base weights and has a diagonal of its own",
    "velora_config": "VeLoRA keeps a projection beside the factors",
    "monteclora_config": "MonteCLoRA draws its factors anew in every pass of training",
    "enable_lora": "factors of some parts of a fused layer alone are not plain LoRA",
}
"""Why a field that is on cannot be represented."""
_ADVICE = {
    "layer_replication": "save the base with its replicated layers as a model of its own, and the adapter without "
    "layer_replication",
    "alora_invocation_tokens": "its effect depends on the prompt and cannot be merged; no plain LoRA equals it",
    "arrow_config": "realign the adapters that it routes to one by one",
    "velora_config": "save it again with velora_config null: it concerns training, the factors are plain LoRA",
    "monteclora_config": "save it again with monteclora_config null: PEFT merges its factors as plain LoRA",
}


def is_inert(name: str) -> bool:
    """Say whether a field may be ignored: a listed one, or a learning rate under any name.

    >>> [is_inert(name) for name in ("lora_dropout", "loraplus_lr_ratio", "some_new_option")]
    [True, True, False]
    """
    return name in INERT or bool(_LEARNING_RATE.fullmatch(name))


def advice(name: str) -> str:
    """Return what the owner of a finished adapter can do about a field that cannot be represented."""
    return _ADVICE.get(name, PLAIN)


def read_flag(config: Mapping[str, Any], name: str, where: str) -> bool:
    """Return a field that is on or off; PEFT takes 1 and 0 too.

    Raises:
      InputError: it holds anything else.
    """
    value = config.get(name)
    if value not in (None, True, False):
        raise unexpected(value, name, where, "true or false")
    return bool(value)
