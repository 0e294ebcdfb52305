"""What the situations of a study share: the models, the customer's training, and what a holding is."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from nlsr_jax.adapter import Adapter, delta
from nlsr_jax.calibration.refinement import Refined
from nlsr_jax.files.output import whole_directory, write_text
from nlsr_jax.formats.peft import load_adapter, write_adapter_files
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import Aligned, Case, align, finetune, stage_key
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.stages import Base
from nlsr_jax.study.worlds import World
from nlsr_jax.training.initial import new_adapter

SECONDS = "seconds.txt"
"""File beside a kept adapter: how long its training took."""


class Made(NamedTuple):
    """A model, and the seconds that it took to make.

    Attributes:
      base: the base.
      adapter: its adapter; None for the base alone.
      seconds: duration.
    """

    base: Base
    adapter: Adapter | None
    seconds: float


Peer = Callable[[Adapter, Adapter, Callable[[], Statistics], float], Adapter]
"""Another repair: of the fine-tuned adapter, the one that holds the alignment, the statistics of the latter on the
calibration rows, which are measured when they are asked for, and a setting."""


class Holding(Protocol):
    """What one owner holds.

    Attributes:
      models: the models before the repair, by method: ``"aligned"`` and ``"finetuned"``.
    """

    models: Mapping[str, Made]

    def repaired(self, beta: float, share: float, strength: float = 1.0) -> Made:
        """Return the repaired model: β, the share of the entries that is transplanted, and how far they move.

        Gradients are taken on the answers of the calibration rows.
        """
        ...

    def recommended(self, beta: float, share: float, strength: float = 1.0) -> Made:
        """Return ``repaired`` with gradients on the answers that ``choose_rows`` chooses."""
        ...

    def refined(
        self, beta: float, share: float, strength: float = 1.0, *, keeps: bool = False
    ) -> tuple[Made, Refined]:
        """Return the repaired model with a refined share, and how it was found.

        The search begins where ``first_share`` says for ``share``, that of a repair of strength 1, which is made if
        the calibration prompts cannot refine it.

        With ``keeps`` it keeps the answers to prompts of the customer's task that the customer's rows do not have.
        """
        ...

    def published(self) -> Made:
        """Return the model repaired with the paper's settings and one draw."""
        ...

    def by_peer(self, peer: Peer, setting: float) -> Made:
        """Return the model that another repair makes of the fine-tuned adapter and the alignment's."""
        ...


class Workshop:
    """What the situations of a study share.

    Args:
      base: the pretrained model.
      world, config: world and configuration of the study.
      alignment: the adapter that makes the instruct model of the base.
      rates: learning rate of a fresh adapter by share of harmful rows.
      lineage: the weak and the aligned adapter of a lineage; None to align anew for every seed.
      folder: where fine-tuned adapters are kept, so that a later run finds them; None to keep none.
      show: show progress.
    """

    def __init__(
        self,
        base: Base,
        world: World,
        config: StudyConfig,
        alignment: Adapter,
        rates: Mapping[float, float],
        *,
        lineage: Aligned | None = None,
        folder: pathlib.Path | None = None,
        show: bool = False,
    ):
        self.base, self.world, self.config, self.alignment = base, world, config, alignment
        self.rates, self.show = dict(rates), show
        self._lineage, self._folder = lineage, folder
        self.fresh = functools.lru_cache(1)(self._fresh)

    @functools.cached_property
    def instruct(self) -> Base:
        """The instruct model: the base with the alignment merged into its weights."""
        return merged(self.base, self.alignment)

    def _fresh(self, case: Case) -> Made:
        """Fine-tune a fresh adapter on the instruct model."""
        stage = self.config.finetuning
        training = dataclasses.replace(stage.training, learning_rate=self.rates[case.poison_ratio])
        config = dataclasses.replace(self.config, finetuning=dataclasses.replace(stage, training=training))
        key = stream(stage_key(case.seed, case.stage), "lora")
        start = new_adapter(key, self.base.model.config, config.lora)
        return self._tuned("fresh", self.instruct, config, start, case)

    def aligned(self, case: Case) -> Aligned:
        """Return the weak and the aligned adapter of a case's lineage."""
        if self._lineage is not None:
            return self._lineage
        return align(self.base, self.world, self.config, case.seed, show=self.show)

    def continued(self, case: Case, aligned: Adapter) -> Made:
        """Fine-tune an aligned adapter."""
        return self._tuned("continued", self.base, self.config, aligned, case)

    def _tuned(self, kind: str, base: Base, config: StudyConfig, start: Adapter, case: Case) -> Made:
        kept = self._folder and self._folder / f"{kind}_{case.task}_{case.poison_ratio:g}_{case.seed}"
        if kept and kept.is_dir():
            return Made(base, load_adapter(kept, base.model.config), float((kept / SECONDS).read_text()))
        tuned = finetune(base, self.world, config, start, case, show=self.show)
        if kept:
            with whole_directory(kept) as partial:
                name = config.base if base is self.base else None  # the instruct model has no folder
                write_adapter_files(tuned.adapter, partial, base_model_name_or_path=name)
                write_text(partial / SECONDS, f"{tuned.seconds:.1f}\n")
        return Made(base, tuned.adapter, tuned.seconds)


def merged(base: Base, adapter: Adapter) -> Base:
    """Return a base with an adapter of all its layers merged into its weights, in the weights' type."""
    layers = {name: dict(leaf) for name, leaf in base.params["layers"].items()}
    for module, update in delta(adapter).items():
        kernel = layers[module]["kernel"]
        layers[module]["kernel"] = (kernel + update).astype(kernel.dtype)
    return base._replace(params={**base.params, "layers": layers})
