"""The published settings, each written once: commands, pipeline and laboratory take their defaults from here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """Everything that a realignment takes; the defaults are ``PUBLISHED``.

    Attributes:
      beta, amplification_space: of the amplification; see ``amplify``.
      method, sparsity, granularity: of the identification; see ``identify``.
      rule, base_probability, increment, tau, share, layers: of the choice of modules; see ``realign``.
      space: of the correction; see ``correct``.
      basis: of the rank axis that the fine-tuned adapter is compared in; see ``nlsr_jax.nlsr.basis.common_basis``.
    """

    beta: float = 0.9
    amplification_space: str = "factors"
    method: str = "low_rank"
    sparsity: float = 0.8
    granularity: str = "tensor"
    rule: str = "probability"
    base_probability: float = 0.3
    increment: float = 0.4
    share: float | None = None
    tau: float | None = None
    layers: tuple[int, ...] | None = None
    space: str = "factors"
    basis: str = "as_is"


PUBLISHED = MethodSettings()
"""The paper's P_SR 0.8, P_L 0.5 and β 0.9 as its authors run them: probabilities spread over P_L ± 0.2, that is
from 0.3 to 0.7. All tables are made with these.

>>> PUBLISHED.base_probability, PUBLISHED.increment
(0.3, 0.4)
"""

LIFTED = dataclasses.replace(PUBLISHED, method="gain", sparsity=0.99, granularity="adapter", beta=1.0, rule="all")
"""For an adapter that was trained on the aligned model itself, with the model at hand that it was aligned from: one
per cent of the entries, none beyond the direction of the alignment. Chosen on three cases of the toy world."""

LIFTED_ALONE = dataclasses.replace(LIFTED, sparsity=0.98, beta=0.0)
"""The same without that model: entries go back to what the aligned model has, which takes twice as many."""

AIM = 0.98
"""How likely the automatic choice makes safe beginnings of answers, by default."""
HEADROOM = 1.25
"""How much nearer to certainty a share must be able to come than the automatic choice takes it, as a ratio of the
logarithms of the two probabilities: at its limit, a repair refuses what is harmless."""
