"""The LoRA part of PEFT's ``adapter_config.json``: what it means, or why it is not supported.

Unknown fields that are off (null, false, 0 or empty) are ignored. Unknown fields that are on are refused by name,
because a field that this version does not know may change what the weights mean.

Source: PEFT's ``LoraConfig`` and its matching rules for modules and patterns.
"""

import dataclasses
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import factor, is_whole, short, unexpected, whole
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.formats.peft_extras import Extras, read_extras
from nlsr_jax.formats.peft_fields import PLAIN, READ, REASONS, advice, is_inert, read_flag

MAX_RANK = LIMITS.rank
MAX_PATTERN = LIMITS.pattern_characters
_HARMLESS_INITS = ("gaussian", "orthogonal", "eva", "mica")
_ALTERING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LANGUAGE_MODELS = ("ForCausalLM", "ForConditionalGeneration", "Model")
_PROMPTS = ("PROMPT", "PREFIX", "P_TUNING", "CPT", "TRAINABLE_TOKENS")
_HEADED = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Tasks for which PEFT trains a head and keeps it beside the factors."""
_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", *_HEADED)
DEFAULT_TARGETS = ("q_proj", "v_proj")
"""What PEFT adapts in most models when ``target_modules`` is not given."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What a LoRA adapter's config says about ranks, scalings and targets.

    Attributes:
      rank: ``r``.
      alpha: ``lora_alpha``.
      rslora: scale by ``alpha / sqrt(rank)`` in place of ``alpha / rank``.
      targets: module names (any match at the end of a path), or a regular expression of whole paths, or
        ``"all-linear"``; empty where parameters alone are adapted.
      parameters: names of parameters (any match at the end of a path), whose factors are those of a linear layer or
        of all experts of a layer.
      exclude: likewise, of modules that are left out.
      layers: ``layers_to_transform``; None for all.
      layers_pattern: names of the module list that ``layers`` counts; empty for any.
      rank_pattern, alpha_pattern: ``(regular expression, value)`` in order; the first match counts.
      extras: modules that are trained whole, rows of tokens.
      raw: the whole config as read.
    """

    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...] | str
    exclude: tuple[str, ...] | str
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    rank_pattern: tuple[tuple[str, int], ...]
    alpha_pattern: tuple[tuple[str, float], ...]
    extras: Extras
    raw: dict[str, Any]
    parameters: tuple[str, ...] = ()

    @property
    def all_linear(self) -> bool:
        """Whether every linear layer but the output head is adapted."""
        return isinstance(self.targets, str) and self.targets.lower() == "all-linear"


def parse_adapter_config(config: dict, where: str) -> LoraConfig:
    """Read a PEFT config.

    Args:
      config: the JSON object.
      where: its file, for messages.

    Returns:
      A ``LoraConfig``.

    Raises:
      InputError: not a plain LoRA adapter of a causal language model; with the field and the reason.
    """
    _check_kind(config, where)
    _check_fields(config, where)
    _check_init(config.get("init_lora_weights", True), where)
    targets = _targets(config, where)
    layers, pattern = _layers(config, where), _layers_pattern(config, where)
    given = [name for name in ("layers_to_transform", "layers_pattern") if config.get(name) is not None]
    if isinstance(targets, str) and given:
        raise InputError(
            f"{where}: {given[0]} cannot go with target_modules {short(targets)}; name the layers in a regular "
            "expression, or list the module names"
        )
    if pattern and "layers_to_transform" not in given:
        raise InputError(f"{where}: layers_pattern is given without layers_to_transform; give both or none")
    return LoraConfig(
        rank=_rank(config.get("r", 8), "r", where),
        # PEFT takes any number. A negative one subtracts the product, which an adapter can hold; with 0 the module
        # is not adapted at all, and no factors can be compared or combined at that scale.
        alpha=factor(config.get("lora_alpha", 8), "lora_alpha", where),
        rslora=read_flag(config, "use_rslora", where),
        targets=targets,
        exclude=_names(config, "exclude_modules", where),
        layers=layers,
        layers_pattern=pattern,
        rank_pattern=_pattern(config, "rank_pattern", _rank, where),
        alpha_pattern=_pattern(config, "alpha_pattern", factor, where),
        extras=read_extras(config, where),
        raw=config,
        parameters=_parameters(config, where),
    )


def _check_kind(config, where):
    kind = config.get("peft_type")
    if kind != "LORA":
        found = f"is {short(kind)}" if "peft_type" in config else "is missing"
        prompts = isinstance(kind, str) and any(part in kind.upper() for part in _PROMPTS)
        can = "learned prompts and tokens have no weights that can be realigned" if prompts else PLAIN
        raise InputError(f"{where}: peft_type {found}; only LORA adapters can be realigned; {can}")
    task = config.get("task_type")
    if task is not None and task not in _TASKS:
        raise InputError(
            f"{where}: task_type is {short(task)}, which PEFT does not know; set it to CAUSAL_LM if the adapter "
            "belongs to a language model"
        )


def notes_of_kind(config: dict) -> list[str]:
    """Return one line for each statement of a config about its model that the tensors contradict.

    The tensors decide: plain factors of decoder layers are read as such, whatever the config calls them.

    Args:
      config: a config that ``parse_adapter_config`` accepts, of a file that holds plain factors alone.
    """
    notes = []
    task, mapping = config.get("task_type"), config.get("auto_mapping")
    if task not in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
        kept = " and no trained head" if task in _HEADED else ""
        notes.append(
            f"task_type is {task}; the file holds plain factors of decoder layers{kept}, read as CAUSAL_LM"
        )
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else mapping
    if isinstance(name, str) and name and not name.endswith(_LANGUAGE_MODELS):
        notes.append(
            f"auto_mapping names the class {short(name)}; the file holds plain factors of decoder layers, read as "
            "those of a language model"
        )
    return notes


def _check_fields(config, where):
    bias = config.get("bias", "none")
    if bias not in ("none", "all", "lora_only", None):
        raise unexpected(bias, "bias", where, "'none', 'all' or 'lora_only'")
    for name, value in config.items():
        if not value or name in READ or is_inert(name):
            continue
        if name in REASONS:
            raise InputError(f"{where}: {name} is {short(value)}: {REASONS[name]}; {advice(name)}")
        raise InputError(
            f"{where}: unknown field {short(name)} is {short(value)}; it may change what the weights mean, "
            "remove it if it does not"
        )


def _check_init(init, where):
    if isinstance(init, bool) or init is None:
        return
    if isinstance(init, str):
        name = init.lower()
        if name in _HARMLESS_INITS:
            return
        if name.startswith(_ALTERING_INITS):
            raise InputError(
                f"{where}: init_lora_weights is {short(init)}, which changes the base weights; convert it with "
                "PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=the untrained adapter), or "
                f"{PLAIN}"
            )
    raise InputError(
        f"{where}: init_lora_weights is {short(init)}, which may change the base weights; set it to "
        "true if it left them unchanged"
    )


def _rank(value, name, where) -> int:
    return whole(value, name, where, MAX_RANK)


def _parameters(config, where) -> tuple[str, ...]:
    found = _names(config, "target_parameters", where)
    if isinstance(found, str):
        raise unexpected(found, "target_parameters", where, "a list of names")
    return found


def _targets(config, where) -> tuple[str, ...] | str:
    parameters = _parameters(config, where)
    if config.get("target_modules") is None:
        return () if parameters else DEFAULT_TARGETS
    targets = _names(config, "target_modules", where)
    if not targets and not parameters:
        raise InputError(f"{where}: target_modules is empty: nothing is adapted; expected names of projections")
    return targets


def _names(config, name, where) -> tuple[str, ...] | str:
    value = config.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        if not value or len(value) > MAX_PATTERN:
            raise InputError(f"{where}: {name} is a text of {len(value)} characters; expected 1 to {MAX_PATTERN}")
        return value
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise unexpected(value, name, where, "a list of names or a regular expression")
    return tuple(sorted(set(value)))


def _layers(config, where) -> tuple[int, ...] | None:
    value = config.get("layers_to_transform")
    if value is None or value == []:
        return None
    value = value if isinstance(value, list) else [value]
    if not all(is_whole(i, 0, 100_000) for i in value):
        raise unexpected(value, "layers_to_transform", where, "layer numbers from 0")
    return tuple(sorted(set(value)))


def _layers_pattern(config, where) -> tuple[str, ...]:
    value = config.get("layers_pattern")
    if not value:
        return ()
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(
        isinstance(entry, str) and len(entry) <= MAX_PATTERN for entry in value
    ):
        raise unexpected(value, "layers_pattern", where, "names")
    return tuple(value)


def _pattern(config, name, check, where):
    value = config.get(name)
    if not value:
        return ()
    if not isinstance(value, dict) or len(value) > 100_000:
        raise unexpected(value, name, where, "an object")
    longest = max(value, key=len)
    if len(longest) > MAX_PATTERN:
        raise InputError(f"{where}: {name} has a key of {len(longest)} characters; expected at most {MAX_PATTERN}")
    return tuple((key, check(entry, f"{name}[{short(key)}]", where)) for key, entry in value.items())
