"""Whether the adapters of a run name the base that it is given, as far as names tell."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import expand, is_folder
from nlsr_jax.formats.hub import is_cached, parse_hub_name
from nlsr_jax.formats.peft_writing import PLAIN_STACK
from nlsr_jax.formats.quantised_names import sibling_advice, without_marks
from nlsr_jax.pipeline.settings import Settings, SourceSettings
from nlsr_jax.pipeline.sources import Sources
from nlsr_jax.progress import Stages

_REVISION = re.compile(r"^([\w.-]+/[\w.-]+)@.*$")
_CACHED = re.compile(r"models--[^/]+?--([^/]+)/snapshots/[^/]+$")


def plain_name(name: Any) -> str | None:
    """Return what two names of one model have in common, None where nothing is named.

    Args:
      name: a hub id or a folder: the last part counts, in lower case and without marks of quantisation, such as
        ``-bnb-4bit`` or ``-GPTQ-Int4``, and without a revision. Of a snapshot in the hub's cache it is that of the
        id.

    >>> plain_name("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit")
    'llama-3.2-1b-instruct'
    >>> plain_name("unsloth/Llama-3.2-1B-Instruct@main")
    'llama-3.2-1b-instruct'
    >>> plain_name("/models/Llama-3.2-1B-Instruct/")
    'llama-3.2-1b-instruct'
    """
    if not isinstance(name, str) or not name.strip():
        return None
    path = name.strip().replace("\\", "/").rstrip("/")
    path = _REVISION.sub(r"\1", path)
    cached = _CACHED.search(path)
    last = cached.group(1) if cached else path.rsplit("/", 1)[-1]
    if last in ("", ".", ".."):
        last = pathlib.Path(path or "/").resolve().name
    return without_marks(last.lower()) or None


def note_bases(named: Mapping[str, Any]) -> list[str]:
    """Say where inputs name different base models.

    Args:
      named: ``{input: name}``: what ``--base`` is, and ``base_model_name_or_path`` of the adapters' configs.

    Returns:
      One note, or none where all that is named agrees.
    """
    plain = {who: plain_name(name) for who, name in named.items()}
    if len({name for name in plain.values() if name is not None}) < 2:
        return []
    shown = ", ".join(f"{who} {named[who]}" for who, name in plain.items() if name is not None)
    return [
        f"the base models differ by name: {shown}; adapters of different bases have nothing in common, "
        "so make sure that these are one model"
    ]


def note_base_names(settings: SourceSettings, sources: Sources) -> list[str]:
    """Say where the base that is given and the adapters' configs name different models."""
    files = {name: file for name, file in sources.named() if getattr(settings, name)}
    named = {name: file.layout.config.get("base_model_name_or_path") for name, file in files.items()}
    return note_bases({"--base": settings.base, **named})


def note_place(settings: SourceSettings, sources: Sources) -> list[str]:
    """Say where the written adapter's layers are in another place than those of the base that the run reads.

    PEFT goes by the whole path: on that base it would find none of them.
    """
    stack = sources.target.layout.stack
    if stack == PLAIN_STACK or not (settings.needs_base or settings.pretrained):
        return []
    return [
        f"{sources.target.path}: its layers are in {stack.prefix}{stack.name}, and written so; those of "
        f"{settings.base} are in {PLAIN_STACK.prefix}{PLAIN_STACK.name}, where PEFT finds none of them: to use "
        "this base, save the adapter again with nlsr_jax.save_adapter(nlsr_jax.load_adapter(folder), "
        "new_folder), which gives them its names"
    ]


def check_trained_on(settings: SourceSettings) -> None:
    """Check that the fine-tuned adapter does not name ``pretrained`` as the model that it was trained on.

    The repair would then lead away from the alignment where ``base`` and ``pretrained`` are exchanged.

    Args:
      settings: of the run.

    Raises:
      InputError: it does.
    """
    named = _named_base(settings.finetuned)
    base, pretrained, found = map(plain_name, (settings.base, settings.pretrained, named))
    if found is not None and found == pretrained != base:
        raise InputError(
            f"{settings.finetuned}: names {named} as the model that it was trained on, which is "
            f"{argument('pretrained')} ({settings.pretrained}) and not the aligned model {argument('base')} "
            f"({settings.base}): exchange the two if they are the wrong way round; an adapter that was trained on "
            f"the pretrained model needs {argument('aligned')}. {argument('allow_unrelated')} goes on all the same"
        )


def with_named_base(settings: Settings, stages: Stages, *, asked: bool = False) -> Settings:
    """Return the settings with the base that the fine-tuned adapter's config names, where none is given.

    Args:
      settings: of the run.
      stages: where to say so.
      asked: whether the base is needed to answer prompts.

    Returns:
      The settings unchanged where the run needs no base or the config names none.

    Raises:
      InputError: the name is neither a folder that is there nor a model in the hub's cache.
    """
    needed = asked or settings.needs_base or settings.pretrained
    if settings.base or not settings.finetuned or not needed or _named_base(settings.finetuned) is None:
        return settings
    return dataclasses.replace(settings, base=find_named_base(settings.finetuned, stages.say))


def find_named_base(adapter: str, say: Callable[[str], None]) -> str:
    """Return the base that an adapter's config names.

    Args:
      adapter: its folder.
      say: called with a line about it.

    Raises:
      InputError: it names none, or one that is neither a folder that is there nor a model in the hub's cache.
    """
    name = named_base(adapter)
    if name is None:
        raise InputError(f"{argument('base')} is missing, and {adapter} names none; give the folder of its base")
    say(f"base: {name}, which {adapter} names")
    return name


def named_base(adapter: str) -> str | None:
    """Return the base that an adapter's config names, None if it names none.

    Args:
      adapter: a PEFT directory.

    Raises:
      InputError: the name is neither a folder that is there nor a model in the hub's cache.
    """
    name = _named_base(adapter)
    if name is None:
        return None
    hub = parse_hub_name(name)
    if not (is_folder(name) or (hub is not None and is_cached(hub, "config.json"))):
        fetched = "" if hub is None else f", or fetch it by hf download {name}"
        raise InputError(
            f"{argument('base')} is missing, and {name}, which {adapter} names as its base, is not at "
            f"hand; give its folder{fetched}{sibling_advice(name)}"
        )
    return name


def _named_base(adapter: str | None) -> str | None:
    """What an adapter's config names; None where that is nothing, or no config can be read."""
    if not adapter:
        return None
    try:
        config = read_json_object(expand(adapter) / "adapter_config.json", "adapter config")
    except InputError:  # said where the adapter is opened
        return None
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None
