"""Try adapter configs from anywhere: which of them can be realigned, and why not the others.

  python -m tests.reliability.public_configs FOLDER_OR_FILE...

Every ``adapter_config.json`` below the folders, every JSON file in a folder ``adapter_configs`` and every row of a
JSON Lines file with a ``peft_type`` is tried. PEFT makes an adapter of a tiny model of the family that the config
names, with the config's fields and at most rank 4. It is realigned as a fresh LoRA on an aligned base: by ``gain``
with a forward pass, or, where the base has none here, by random masks.
"""

import collections
import json
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors.numpy import load_file, save_file

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import open_adapter
from nlsr_jax.nlsr.settings import RECOMMENDED_ALONE
from nlsr_jax.pipeline import Settings, Stages, realign_files
from tests.reliability.public_bases import family_of, make_base, save_base
from tests.tiny_base import save_rows

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANK = 4
_OTHERS = {"t5": "an encoder and decoder", "whisper": "a speech model", "bert": "no decoder that writes text"}
_PLAIN = ("r", "lora_alpha", "use_rslora", "target_modules", "task_type", "rank_pattern", "alpha_pattern", "bias")


class Trial(NamedTuple):
    """What happened to one config.

    Attributes:
      name: of its file.
      kind: ``"LoRA of a decoder"``, or what else it is.
      outcome: ``"realigned"``, ``"realigned by names"``, ``"read"`` (and no more was tried) or ``"refused"``.
      reason: of a refusal; of realigned ones, why no forward pass was made, or empty.
      carried: whether the output holds tensors that are carried unchanged.
    """

    name: str
    kind: str
    outcome: str
    reason: str
    carried: bool = False

    @property
    def is_served(self) -> bool:
        """Whether the adapter is realigned, or can be."""
        return self.outcome != "refused"


DECODER = "LoRA of a decoder"


def find_configs(places: Iterable[pathlib.Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(name, config)`` of every PEFT config at these places."""
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob("*.json*"))
        for file in files:
            given = place.is_file() or file.name == CONFIG or file.parent.name == "adapter_configs"
            if not given or file.name == "index.json":
                continue
            text = file.read_text(encoding="utf-8-sig")
            lines = [line for line in text.splitlines() if line.strip()] if file.suffix == ".jsonl" else [text]
            for i, line in enumerate(lines):
                config = json.loads(line)
                if isinstance(config, dict) and "peft_type" in config:
                    yield str(file) if len(lines) == 1 else f"{file}:{i + 1}", config


def kind_of(config: Mapping[str, Any]) -> str:
    """Say what a config is of, by what it says of itself."""
    if config["peft_type"] != "LORA":
        return f"{config['peft_type']}"
    if config.get("task_type") in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return "LoRA of a classifier"
    return f"LoRA of {_OTHERS[family_of(config)]}" if family_of(config) in _OTHERS else DECODER


def clamped(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with small ranks, and otherwise as it is."""
    rank = config.get("r") or 8
    pattern = {name: min(value, RANK) for name, value in (config.get("rank_pattern") or {}).items()}
    return {**config, "r": min(rank, RANK), **({"rank_pattern": pattern} if pattern else {})}


def save_adapter_of(config: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Let PEFT make an adapter by a config, give it random factors, and save it with the config itself."""
    torch.manual_seed(1)
    config = clamped(config)
    plain = {name: config[name] for name in _PLAIN if name in config}
    for fields in (config, plain, {"r": config["r"], "target_modules": "all-linear"}):
        try:
            _save_by_peft(fields, config, folder)
            break
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError) as error:
            last = error
    else:
        raise last
    (folder / CONFIG).write_text(json.dumps(config))


def _save_by_peft(fields: Mapping[str, Any], config: Mapping[str, Any], folder: pathlib.Path) -> None:
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        settings = LoraConfig.from_peft_type(**{**fields, "peft_type": "LORA", "init_lora_weights": True})
        settings.auto_mapping = settings.task_type = None
        model = get_peft_model(make_base(family_of(config))(), settings)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(0.1 * torch.randn(weight.shape, device="cpu"))
        model.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in tensors.items() if value.size}, folder / WEIGHTS)


def attempt(
    name: str, config: Mapping[str, Any], work: pathlib.Path, methods: Sequence[str] = ("gain", "random")
) -> Trial:
    """Make an adapter of one config and realign it, in a folder of its own below ``work``.

    Args:
      name: for the result.
      config: the adapter's.
      work: holds the bases and rows that several trials share.
      methods: to try one after the other; none to open the adapter and no more.
    """
    kind, folder = kind_of(config), pathlib.Path(tempfile.mkdtemp(dir=work))
    save_adapter_of(config, folder / "a")
    why = ""
    try:
        carried = bool(open_adapter(folder / "a").carried)
        if not methods:
            return Trial(name, kind, "read", why, carried)
    except InputError as error:
        return Trial(name, kind, "refused", _reason(error, folder, work))
    for method in methods:
        try:
            settings = _settings(method, config, folder, work)
            realign_files(settings, folder / method, stages=Stages(False), draw=_draw_nothing)
        except InputError as error:
            why = _reason(error, folder, work)
            continue
        outcome = "realigned" if method == "gain" else "realigned by names"
        return Trial(name, kind, outcome, why, carried)
    return Trial(name, kind, "refused", why)


def _reason(error: InputError, folder: pathlib.Path, work: pathlib.Path) -> str:
    return error.with_flags().replace(str(folder / "a"), "ADAPTER").replace(str(work), "BASES")


def _draw_nothing(record: dict) -> dict:
    return {}


def _settings(method: str, config: Mapping[str, Any], folder: pathlib.Path, work: pathlib.Path) -> Settings:
    common = {"finetuned": str(folder / "a"), "beta": 0.0}
    if method == "random":
        return Settings(**common, method="random", rule="all", sparsity=0.9)
    family = family_of(config)
    gain = {"method": "gain", "granularity": "adapter", "rule": "all", "sparsity": RECOMMENDED_ALONE.sparsity}
    base = save_base(family, work / family)
    return Settings(**common, **gain, base=str(base), calibration=str(work / "rows.jsonl"), batch_size=4)


def start_work(work: pathlib.Path) -> pathlib.Path:
    """Make the folder that trials share."""
    work.mkdir(exist_ok=True)
    save_rows(work / "rows.jsonl", 4)
    return work


def table_of(trials: Iterable[Trial]) -> str:
    """Return one Markdown table: how many configs of each kind had which outcome, and why."""
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for trial in trials:
        outcome = trial.outcome + (", others carried" if trial.carried else "")
        counts[trial.kind, outcome, _short(trial.reason)] += 1
    order = sorted(counts, key=lambda row: (row[0] != DECODER, row[0], "refused" in row[1], row))
    rows = [f"| {kind} | {outcome} | {counts[kind, outcome, why]} | {why} |" for kind, outcome, why in order]
    return "\n".join(["| adapter | outcome | configs | reason |", "| --- | --- | ---: | --- |", *rows])


def _short(reason: str) -> str:
    return reason.replace("|", "\\|").removeprefix(f"ADAPTER/{CONFIG}: ")[:300]


def main(places: list[str]) -> None:
    """Try all configs at these places and print the table."""
    trials = []
    with tempfile.TemporaryDirectory() as temporary:
        work = start_work(pathlib.Path(temporary))
        for name, config in find_configs(map(pathlib.Path, places)):
            trials.append(attempt(name, config, work))
            print(trials[-1].outcome, name, trials[-1].reason, file=sys.stderr)
    print(table_of(trials))
    decoders = [trial for trial in trials if trial.kind == DECODER]
    print(f"\n{sum(trial.is_served for trial in decoders)} of {len(decoders)} LoRA adapters of decoders realigned")


if __name__ == "__main__":
    main(sys.argv[1:])
