"""RESTA: add the safety vector, what separates the aligned model from one that is not aligned.

Source: Bhardwaj et al., Language Models are Homer Simpson, 2024 (arXiv 2402.11746):
``θ = θ_ft + γ (θ_aligned − θ_unaligned)``. Its DARE variant drops single entries of full weight matrices, which an
adapter cannot hold, and is left out.
"""

from nlsr_jax.adapter import Adapter
from nlsr_jax.defenses.merging import weighted_sum


def resta(finetuned: Adapter, aligned: Adapter, unaligned: Adapter | None = None, *, gamma: float = 1.0) -> Adapter:
    """Add γ times the safety vector, exactly.

    Args:
      finetuned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: the aligned adapter.
      unaligned: the adapter of the model that is not aligned; None where that is the base.
      gamma: γ.

    Returns:
      An adapter of the ranks' sum.

    Raises:
      InputError: adapters that do not fit each other.
    """
    if unaligned is None:
        return weighted_sum((finetuned, aligned), (1.0, gamma))
    return weighted_sum((finetuned, aligned, unaligned), (1.0, gamma, -gamma))
