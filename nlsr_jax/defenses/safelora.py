"""SafeLoRA: project modules whose fine-tuned update left the alignment's subspace back onto it.

``V = W_aligned − W_base`` is the aligned adapter's weight update. With ``C = V Vᵀ / ‖V‖_F`` (fast) or the
orthogonal projector on V's column space (exact), a module whose ``cos(C B A, B A)`` is at most τ gets ``B ← C B``.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: Hsu et al., Safe LoRA, 2024 (arXiv 2405.16833), section 3. Its ``VVᵀ/‖V‖_F`` does not square the norm and is
therefore not idempotent. The exact projector ``V(VᵀV)⁻¹Vᵀ`` is the identity if V has full row rank; here V has at
most the adapter's rank. NLSR's authors project the input side (``side="input"``).
"""

from typing import NamedTuple

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure
from nlsr_jax.defenses.subspace import choose_layers, decompose, exact_weights, fast_weights, project
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.pruning import similarity_rank
from nlsr_jax.nlsr.similarity import product_cosine

PROJECTORS = {"fast": fast_weights, "exact": exact_weights}


class Projected(NamedTuple):
    """The result of SafeLoRA.

    Attributes:
      adapter: the adapter.
      cosine: ``{module: [L]}`` float32, ``cos(C B A, B A)``.
      changed: ``{module: [L]}`` bool, whether a module was projected.
    """

    adapter: Adapter
    cosine: PerModule
    changed: PerModule


def project_onto(
    finetuned: Adapter, aligned: Adapter, *, projector: str = "fast", side: str = "output"
) -> tuple[Adapter, PerModule]:
    """Project all modules on the aligned update's subspace.

    Args:
      finetuned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: an adapter with the same modules and layers; its rank may differ.
      projector: ``"fast"`` or ``"exact"``.
      side: ``"output"`` (``B ← C B``) or ``"input"`` (``A ← A C``).

    Returns:
      ``(the projected adapter, {module: [L]} cosine of each update before and after)``.

    Raises:
      InputError: if projector or side is unknown, or the adapters do not match.
    """
    if projector not in PROJECTORS:
        raise InputError(f"projector is {projector!r}; expected one of {', '.join(PROJECTORS)}")
    check_same_structure(aligned, finetuned, ("aligned", "fine-tuned"), rank=False)
    svds = decompose(aligned)
    weights = {module: PROJECTORS[projector](svd) for module, svd in svds.items()}
    projected = project(finetuned, svds, weights, side)
    return projected, product_cosine(projected, finetuned)


def safelora(
    finetuned: Adapter,
    aligned: Adapter,
    *,
    tau: float = 0.5,
    number: int | None = None,
    projector: str = "fast",
    side: str = "output",
) -> Projected:
    """Project the modules that differ most from their projection.

    Args:
      finetuned, aligned, projector, side: see ``project_onto``.
      tau: project modules whose cosine is at most this.
      number: project this many modules, those with the lowest cosine; ``tau`` is then ignored.

    Raises:
      InputError: as in ``project_onto``, or if ``number`` is below 0.
    """
    if number is not None and number < 0:
        raise InputError(f"number is {number}; expected 0 or more")
    projected, cosine = project_onto(finetuned, aligned, projector=projector, side=side)
    if number is None:
        changed = {module: value <= tau for module, value in cosine.items()}
    else:
        ranks = similarity_rank(cosine)
        changed = {module: rank <= number for module, rank in ranks.items()}
    return Projected(choose_layers(changed, projected, finetuned), cosine, changed)
