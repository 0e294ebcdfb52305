"""Calibration data meet the model: statistics, gradients, openings of answers, and the automatic choice."""

from nlsr_jax.calibration.capture import collect_gradients, collect_loss_gradient, collect_statistics

__all__ = ["collect_gradients", "collect_loss_gradient", "collect_statistics"]
