"""RESTA: add the safety vector, the difference between the aligned and an unaligned model.

Source: Bhardwaj et al., Language Models are Homer Simpson, 2024 (arXiv 2402.11746):
``θ = θ_ft + γ (θ_aligned − θ_unaligned)``. Its DARE variant drops single entries of full weight matrices, which an
adapter cannot represent, and is omitted.
"""

from nlsr_jax.adapter import Adapter
from nlsr_jax.defenses.merging import weighted_sum


def resta(finetuned: Adapter, aligned: Adapter, unaligned: Adapter | None = None, *, gamma: float = 1.0) -> Adapter:
    """Add γ times the safety vector, exactly.

    Args:
      finetuned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: the aligned adapter.
      unaligned: the adapter of the unaligned model; None if that is the base.
      gamma: γ.

    Returns:
      An adapter whose rank is the sum of the ranks.

    Raises:
      InputError: if the adapters do not match.
    """
    if unaligned is None:
        return weighted_sum((finetuned, aligned), (1.0, gamma))
    return weighted_sum((finetuned, aligned, unaligned), (1.0, gamma, -gamma))
