"""Targets that are read as models and adapters: their configs, indices, weights, patterns, tokenizers."""

import json
import pathlib

import numpy as np

from tests.reliability import fuzz_files as files
from tests.reliability.fuzz_cases import Case, binary_file, json_file
from tests.reliability.fuzz_mutations import UNTOUCHED, Random, mutate_json, mutate_safetensors, pick

_PATTERN_PARTS = (
    ".*", "q_proj", "layers", r"\.", "model", r"\d+", "(q|k)", "_proj", "[a-z]", "+", "?", "{2}", "{,3}", "(?:",
    "(", ")", "[", "]", "|", "^", "$", r"\w", "(?i)", "(?P<a>", "(?=", "(?!", "(?<=a)", r"\1", "*",
    "{9999999999}", "\\", "(?#", "[^.]*", "(?a:", "\x00", "é", "{e}", r"\N{DIGIT ONE}", "(?P=a)", "(?>", "*+",
    "(?(1)a|b)", "\ud800", "mlp", "self_attn", "down_proj", "0", "all-linear", "[[:alpha:]]", "&&", "--",
    r"\p{L}", r"\Z", r"\K", "(?R)",
)  # fmt: skip
"""What regular expressions are put together from."""


def adapter_config(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.peft import load_adapter

    place = files.write_adapter(folder / "adapter")
    return json_file(place / "adapter_config.json", files.ADAPTER, lambda: load_adapter(place))


def adapter_weights(folder: pathlib.Path) -> Case:
    from nlsr_jax.architecture.config import parse_model_config
    from nlsr_jax.formats.peft import load_adapter

    place = files.write_adapter(folder / "adapter")
    config = parse_model_config(files.BASE, "config.json")
    return binary_file(place / "adapter_model.safetensors", mutate_safetensors, lambda: load_adapter(place, config))


def mlx_config(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.peft import open_adapter

    place = files.write_mlx_adapter(folder / "adapter")
    return json_file(place / "adapter_config.json", files.MLX_ADAPTER, lambda: open_adapter(place).load())


def patterns(folder: pathlib.Path) -> Case:
    """Regular expressions and names, which decide for every module of a model."""
    from nlsr_jax.formats.peft_config import parse_adapter_config
    from nlsr_jax.formats.peft_targets import select_targets

    del folder

    def pattern(random: Random) -> str:
        return "".join(pick(random, _PATTERN_PARTS) for _ in range(int(random.integers(1, 9))))

    def case(random: Random):
        config = {**files.ADAPTER, "layers_pattern": None, "layers_to_transform": None}
        kind = -1 if random.random() < UNTOUCHED else int(random.integers(5))
        if kind == 0:
            config["target_modules"] = pattern(random)
        elif kind == 1:
            config["target_modules"] = [pattern(random) for _ in range(3)] + ["q_proj"]
        elif kind == 2:
            config["exclude_modules"] = pattern(random)
        elif kind == 3:
            config["layers_to_transform"], config["layers_pattern"] = [0], [pattern(random)]
        elif kind == 4:
            config["rank_pattern"] = {pattern(random): 2, pattern(random): 4}
        return lambda: select_targets(parse_adapter_config(config, "adapter_config.json"), 2, "adapter_config.json")

    return case


def masks(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.mask_files import load_masks

    path = files.write_masks(folder / "masks.safetensors")
    return binary_file(path, mutate_safetensors, lambda: load_masks(path))


def base_config(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.hugging_face import CONFIG, check_weights, read_config

    place = files.write_base(folder / "base")
    families = ("llama", "mistral", "qwen2", "qwen3")

    def case(random: Random):
        family = pick(random, families)
        config = {**files.BASE, "model_type": family, "architectures": [f"{family.capitalize()}ForCausalLM"]}
        (place / CONFIG).write_bytes(mutate_json(random, config))
        return lambda: check_weights(place, read_config(place))

    return case


def base_index(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.hugging_face import check_weights, read_config
    from nlsr_jax.formats.weight_files import INDEX

    place = files.write_base(folder / "base", shards=True)
    index = json.loads((place / INDEX).read_text())
    return json_file(place / INDEX, index, lambda: check_weights(place, read_config(place)))


def base_weights(folder: pathlib.Path) -> Case:
    from nlsr_jax.formats.hugging_face import open_weights, read_config, read_params
    from nlsr_jax.formats.weight_files import WEIGHTS

    place = files.write_base(folder / "base")
    return binary_file(
        place / WEIGHTS, mutate_safetensors, lambda: read_params(open_weights(place, read_config(place)))
    )


def classifier_config(folder: pathlib.Path) -> Case:
    from safetensors.numpy import load_file, save_file

    from nlsr_jax.formats.hugging_face import CONFIG
    from nlsr_jax.formats.weight_files import WEIGHTS
    from nlsr_jax.models.classifier import open_classifier

    place = files.write_base(folder / "judge")
    tensors = load_file(place / WEIGHTS)
    tensors["score.weight"] = np.ones((2, 8), np.float32)
    del tensors["lm_head.weight"]
    save_file(tensors, place / WEIGHTS)
    config = {**files.BASE, "architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    return json_file(place / CONFIG, config, lambda: open_classifier(place))


def tokenizer(folder: pathlib.Path) -> Case:
    """Files that the tokenizers library reads, and chat templates that transformers runs."""
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.data.templates import apply_template
    from tests.tiny_base import save_tokenizer

    place = folder / "tokenizer"
    save_tokenizer(place)
    (place / "config.json").write_text('{"model_type": "llama"}')
    names = ("tokenizer.json", "tokenizer_config.json")
    valid = {name: json.loads((place / name).read_text()) for name in names}
    valid["tokenizer_config.json"]["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    templates = (
        "{{",
        "{{ 1 / 0 }}",
        "{{ x.y.z }}",
        "{% for i in 3 %}{% endfor %}",
        "{{ raise_exception('\x1b[0m') }}",
        5,
    )

    def case(random: Random):
        chosen = pick(random, names)
        for name in names:
            text = json.dumps(valid[name]).encode()
            (place / name).write_bytes(mutate_json(random, valid[name]) if name == chosen else text)
        if random.random() > 0.7:
            changed = {**valid["tokenizer_config.json"], "chat_template": pick(random, templates)}
            (place / "tokenizer_config.json").write_text(json.dumps(changed))

        def read():
            found = load_tokenizer(str(place))
            return apply_template("chat", "fold a mellip", found)

        return read

    return case
