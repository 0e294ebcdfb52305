"""Calibration data meet the model: statistics, gradients, openings of answers, and the automatic choice."""

from nlsr_jax.calibration.capture import collect_gradients, collect_statistics
from nlsr_jax.calibration.loss import collect_loss_gradient
from nlsr_jax.calibration.weight_gradient import collect_weight_gradient

__all__ = ["collect_gradients", "collect_loss_gradient", "collect_statistics", "collect_weight_gradient"]
