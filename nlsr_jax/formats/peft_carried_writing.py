"""Write carried tensors into another PEFT directory: the config that loads them, and their bytes."""

import collections
import math
import re
from typing import Any

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.files.safetensors_files import SafetensorsWriter
from nlsr_jax.formats.peft_carried import Carried
from nlsr_jax.formats.peft_targets import Target, module_path
from nlsr_jax.formats.peft_writing import exact_alpha, scalings
from nlsr_jax.modules import parameter_path


def path_fields(adapter: Adapter, carried: Carried, *, rslora: bool) -> dict[str, Any]:
    """Return the config fields of an adapter with carried factors: every module by its whole path.

    Names alone would not do: another tower may have modules of the same names with other ranks.

    Args:
      adapter: the adapter, with arrays or ``jax.ShapeDtypeStruct`` leaves.
      carried: with factors.
      rslora: write for rank-stabilised scaling.
    """
    targets, parameters = dict(carried.targets), set()
    for module in module_names(adapter.factors):
        rank = int(adapter.factors[module]["a"].shape[1])
        for layer, scaling in zip(layer_indices(adapter, module), scalings(adapter, module), strict=True):
            path = module_path(layer, module, carried.stack)
            targets[parameter_path(path)] = Target(rank, scaling)
            parameters |= {parameter_path(path)} - {path}
    alphas = {path: exact_alpha(target.scaling, target.rank, rslora) for path, target in targets.items()}
    rank = collections.Counter(target.rank for target in targets.values()).most_common(1)[0][0]
    alpha = collections.Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": {re.escape(path): one.rank for path, one in targets.items() if one.rank != rank},
        "alpha_pattern": {re.escape(path): one for path, one in alphas.items() if one != alpha},
        "target_modules": sorted(set(targets) - parameters),
        **({"target_parameters": sorted(parameters)} if parameters else {}),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }


class Passage:
    """Writes each carried tensor when its place in the file comes.

    Args:
      carried: from an open file; None for nothing.
      file: where they are written.
    """

    def __init__(self, carried: Carried | None, file: SafetensorsWriter):
        self._carried, self._file = carried, file
        names = file.names()
        self._place = {name: place for place, name in enumerate(names)}
        waiting = [name for name in names if carried and name in carried.tensors]
        self._waiting = collections.deque(waiting)

    def until(self, name: str | None = None) -> None:
        """Write what comes before a tensor of the file, by default all that is left.

        Raises:
          InputError: the file that was read can no longer be read to its end.
        """
        end = math.inf if name is None else self._place[name]
        while self._waiting and self._place[self._waiting[0]] < end:
            assert self._carried is not None
            one = self._waiting.popleft()
            self._file.write_blocks(one, self._carried.blocks(one))
