"""Inputs that are given by their names on the hub: read from the snapshot in its cache, and recorded by that.

A snapshot's path holds the name and the commit. Where a record's snapshot is not on this machine, it is fetched.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from nlsr_jax.data.places import pinned_place
from nlsr_jax.files.paths import exists
from nlsr_jax.formats.adapter_folder import CONFIG as ADAPTER_CONFIG
from nlsr_jax.formats.adapter_folder import resolve_adapter
from nlsr_jax.formats.hub import HubName, holds, parse_hub_name, snapshot_name
from nlsr_jax.formats.model_matrices import is_model_folder
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.progress import Stages

ADAPTERS = ("aligned", "weak", "finetuned")
MODELS = ("base", "pretrained")
DATA = ("calibration", "harmless", "keep")
MODEL_CONFIG = "config.json"


def with_hub_folders(settings: Settings, names: Sequence[str], stages: Stages) -> Settings:
    """Return the settings with the folders of what they name on the hub, fetched where the cache lacks it.

    Of a data set it is the name with its revision.

    Args:
      settings: of the run.
      names: which inputs; models are left as they are where the run reads none.
      stages: where to say so.

    Raises:
      InputError: the hub cannot give one of them.
    """
    changes: dict[str, Any] = {}
    for name in names:
        given = getattr(settings, name)
        if name in DATA:
            if given and (pinned := pinned_place(given)) != given:
                stages.say(f"{name}: {pinned}")
                changes[name] = pinned
            continue
        asked = given and hub_name(given)
        if asked and (name in ADAPTERS or settings.needs_base or settings.pretrained):
            folder = _resolver(name, asked)(str(asked))
            stages.say(f"{name}: {asked}, from {folder}")
            changes[name] = str(folder)
    return dataclasses.replace(settings, **changes)


def names_model(text: str | None) -> bool:
    """Return whether an input is a full model: its folder, or its name on the hub."""
    asked = hub_name(text) if text else None
    return is_model_folder(text) or (asked is not None and _is_model(asked))


def hub_name(text: str) -> HubName | None:
    """Return the hub name that an input is, or that the path of a snapshot means that is not there.

    >>> str(hub_name("someone/some-adapter@v1"))
    'someone/some-adapter@v1'
    >>> str(hub_name("/far/models--someone--x/snapshots/" + "0a" * 20))[:14]
    'someone/x@0a0a'
    """
    found = snapshot_name(text)
    return found if found is not None and not exists(text) else parse_hub_name(text)


def _resolver(name: str, asked: HubName) -> Callable[[str], pathlib.Path]:
    if name in ADAPTERS and not (name == "finetuned" and _is_model(asked)):
        return resolve_adapter
    from nlsr_jax.formats.hugging_face import resolve  # which imports JAX

    return resolve


def _is_model(asked: HubName) -> bool:
    """Say whether a name on the hub is of a full model."""
    return not holds(asked, ADAPTER_CONFIG) and holds(asked, MODEL_CONFIG)
