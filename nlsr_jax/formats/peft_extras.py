"""Fields of ``adapter_config.json`` about tensors that are not LoRA factors: whole modules and rows of tokens."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import is_whole, unexpected
from nlsr_jax.formats.peft_fields import read_flag


class Extras(NamedTuple):
    """The fields that PEFT needs for tensors that are not factors.

    Attributes:
      saved: ``modules_to_save``; a module is trained whole if its path ends with one of them.
      rows: ``trainable_token_indices``: token ids by the end of a module's path, ``""`` for the input embedding.
      tying: ``ensure_weight_tying``: what adapts the embedding of a tied model adapts its output head too.
    """

    saved: tuple[str, ...] = ()
    rows: Mapping[str, tuple[int, ...]] = {}
    tying: bool = False

    def saves(self, module: str) -> bool:
        """Say whether PEFT trains the whole module at this path; its rule ignores dots."""
        return module.endswith(self.saved) if self.saved else False


def read_extras(config: Mapping[str, Any], where: str) -> Extras:
    """Read the fields of a PEFT config.

    Args:
      config: the JSON object.
      where: its file, for messages.

    Raises:
      InputError: a field that PEFT cannot read.
    """
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) and name for name in saved):
        raise unexpected(saved, "modules_to_save", where, "a list of module names")
    given = config.get("trainable_token_indices")
    rows = given if isinstance(given, dict) else {} if given is None else {"": given}
    for name, ids in rows.items():
        if not isinstance(ids, list) or not ids or not all(is_whole(i, 0) for i in ids):
            expected = "a list of token ids, or one for each name of an embedding"
            raise unexpected(given, "trainable_token_indices", where, expected)
        if len(set(ids)) < len(ids):
            raise InputError(
                f"{where}: trainable_token_indices names a token twice{f' for {name}' if name else ''}"
            )
    tying = read_flag(config, "ensure_weight_tying", where)
    return Extras(tuple(saved), {name: tuple(ids) for name, ids in rows.items()}, tying)
