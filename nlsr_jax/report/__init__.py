"""The page that explains one realignment to someone who did not run it."""

from nlsr_jax.report.page import draw_figures, render_report, write_report

__all__ = ["draw_figures", "render_report", "write_report"]
