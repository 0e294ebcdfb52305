"""Runs that lift: without an aligned adapter, or by the customer's update; see ``nlsr_jax.lift``."""

from collections.abc import Callable

import numpy as np

from nlsr_jax.adapter import Adapter, module_names
from nlsr_jax.formats.peft import AdapterFile
from nlsr_jax.nlsr.direction import Direction
from nlsr_jax.nlsr.lift import Lifted
from nlsr_jax.pipeline.evidence import base_files
from nlsr_jax.pipeline.lifted import Lift, LiftedFile
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.shared import stamp
from nlsr_jax.pipeline.sources import ADAPTERS, Sources, open_named


def open_lifted(settings: Settings, run: Run) -> Sources:
    """Open the adapters, factor the direction of the alignment out of two models where they are given, and lift.

    Args:
      settings: of a run that lifts.
      run: the context.

    Raises:
      InputError: an adapter or models that cannot be used.
    """
    found: dict[str, AdapterFile] = {}
    for name in ADAPTERS:
        if path := getattr(settings, name):
            found[name] = open_named(name, path, run)
    direction = None
    if settings.pretrained is not None:
        direction = _direction(settings, found["finetuned"].shapes(), run)
    basis = "own" if settings.basis == "as_is" else settings.basis
    lift = Lift(**found, direction=direction, basis=basis, key=run.key)
    fixed = {module: lift.slots(module).aligned for module in module_names(lift.shapes().factors)}
    weak, aligned, finetuned = (LiftedFile(lift, kind) for kind in Lifted._fields)
    return Sources(aligned, weak, finetuned, fixed=fixed if any(fixed.values()) else {})


def lift_of(sources: Sources) -> Lift | None:
    """Return what the adapters of a run were lifted from; None where they are as they were read."""
    return sources.finetuned.lift if isinstance(sources.finetuned, LiftedFile) else None


def _direction(settings: Settings, shapes: Adapter, run: Run) -> Direction:
    from nlsr_jax.architecture.fit import check_modules
    from nlsr_jax.formats.safety_direction import safety_direction

    base, pretrained = settings.base, settings.pretrained
    assert base is not None
    assert pretrained is not None
    names = module_names(shapes.factors)
    check_modules(shapes, f"finetuned ({settings.finetuned})")
    rank = settings.direction_rank or max(shapes.factors[name]["a"].shape[1] for name in names)
    run.digests.add("pretrained", pretrained, base_files(pretrained))
    if run.cache is not None or not settings.needs_base:
        run.digests.add("base", base, base_files(base))

    def make() -> Direction:
        return safety_direction(base, pretrained, rank=rank, modules=names)

    def obtain() -> Direction:
        return make() if run.cache is None else _kept(run.cache, rank, names, make, run)

    with run.stages("factor the direction"):
        key = (stamp(base), stamp(pretrained), rank, names, run.cache)
        found = run.shared.once("direction", key, obtain)
    left = np.concatenate([np.asarray(values) for values in found.residual.values()])
    run.stages.say(
        f"direction: base - pretrained at rank {rank} leaves out {left.mean():.2%} of the norm in the mean of "
        f"{left.size} modules, {left.max():.2%} at most"
    )
    return found


def _kept(cache: str, rank: int, names: tuple[str, ...], make: Callable[[], Direction], run: Run) -> Direction:
    """Take the direction from the cache; models without local files are factored anew."""
    from nlsr_jax.formats.direction_cache import describe_direction, obtain_direction

    files = {name: run.digests.of(name) for name in ("base", "pretrained")}
    if not all(any(file.endswith(".safetensors") for file in digests) for digests in files.values()):
        return make()
    found, told = obtain_direction(cache, describe_direction(files, rank=rank, modules=names), make)
    run.stages.say(f"direction: {told}")
    return found
