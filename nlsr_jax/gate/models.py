"""The models of a check: adapters over one base, which is loaded once, and full models, each loaded in its turn."""

import os
import pathlib
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from nlsr_jax import configs
from nlsr_jax.errors import InputError
from nlsr_jax.formats.carried_fit import note_left_out
from nlsr_jax.formats.hugging_face import read_config, resolve
from nlsr_jax.formats.mask_files import FILE as MASKS
from nlsr_jax.formats.model_matrices import is_model_folder
from nlsr_jax.formats.peft import AdapterFile, open_adapter, open_fitting
from nlsr_jax.formats.record import Digests
from nlsr_jax.gate.config import study_of
from nlsr_jax.gate.examination import Served
from nlsr_jax.gate.questions import Note
from nlsr_jax.gate.settings import CheckSettings
from nlsr_jax.models.carried import apply_carried
from nlsr_jax.models.load import load_model
from nlsr_jax.pipeline.base_names import find_named_base, note_bases
from nlsr_jax.pipeline.evidence import base_files
from nlsr_jax.study.config_files import Study


class Models:
    """Opens the models of a check.

    Args:
      adapter: the one that is checked: a PEFT directory or hub id, or the directory of a full model.
      against: the one that it is compared with, likewise; None for none.
      base: directory or hub id; None for what the adapters' configs name, else for the config's.
      settings: number type of the weights, and the config whose base is taken where no adapter names one.
      mesh: lay the weights over these devices.
      note: called with what a user should know of the models.
      say: called with what is done.

    Raises:
      InputError: a model that cannot be used, or a base that is missing.
    """

    def __init__(
        self,
        adapter: str | os.PathLike,
        against: str | os.PathLike | None,
        base: str | None,
        *,
        settings: CheckSettings,
        mesh: Mesh | None,
        note: Note,
        say: Note,
    ):
        places = {"adapter": adapter, "against": against}
        self.places = {name: os.fspath(place) for name, place in places.items() if place is not None}
        self._dtype, self._mesh, self._note, self._say = jnp.dtype(settings.dtype), mesh, note, say
        self._base: tuple[Any, Any] | None = None
        self.base = self._find_base(base, study_of(settings))
        self._files = {name: self._open(name) for name in self.places}

    def _find_base(self, base: str | None, study: Study | None) -> str:
        """Return the base: as it is given, as an adapter names it, as the config has it, or a full model itself."""
        if base is not None:
            return base
        adapters = [place for place in self.places.values() if not is_model_folder(place)]
        if not adapters:
            return self.places["adapter"]
        if study is None:
            return find_named_base(adapters[0], self._say)
        try:
            return find_named_base(adapters[0], self._say)
        except InputError:
            return configs.base_of(study.config)

    def _open(self, name: str) -> AdapterFile | None:
        """Open an adapter, checked against the base; None for a full model."""
        place = self.places[name]
        if is_model_folder(place):
            return None
        file = open_fitting(place, read_config(resolve(self.base)))
        named = file.layout.config.get("base_model_name_or_path")
        for text in note_bases({"--base": self.base, place: named}):
            self._note(text)
        return file

    def load(self, name: str) -> Served:
        """Load a model.

        Raises:
          InputError: weights that cannot be used.
        """
        file = self._files[name]
        if file is None:
            return Served(*self._read(self.places[name]))
        if self._base is None:
            self._base = self._read(self.base)
        model, params = self._base
        if file.carried:
            for text in note_left_out(file.carried, model.config, self.places[name]):
                self._note(text)
            model, params = apply_carried(model, params, file.carried)
        return Served(model, params, file.load())

    def _read(self, place: str) -> tuple[Any, Any]:
        return load_model(place, dtype=self._dtype, mesh=self._mesh, note=self._note)

    def release(self) -> None:
        """Let go of the base, to make room for a judge."""
        self._base = None

    def digest(self, digests: Digests) -> None:
        """Start to digest the files of all models."""
        if any(file is not None for file in self._files.values()):
            digests.add("base", self.base, base_files(str(resolve(self.base))))
        for name, place in self.places.items():
            digests.add(name, place, weight_files(place))

    def inputs(self) -> dict[str, str | None]:
        """Return the inputs by the flags that give them."""
        return {"the adapter": self.places["adapter"], "--against": self.places.get("against"), "--base": self.base}


def weight_files(place: str | os.PathLike) -> list[pathlib.Path]:
    """Return the files of an adapter or a full model that are digested."""
    if is_model_folder(place):
        return [file for file in base_files(os.fspath(place)) if file.name != MASKS]
    file = open_adapter(place)
    return [pathlib.Path(file.path) / part for part in file.files]
