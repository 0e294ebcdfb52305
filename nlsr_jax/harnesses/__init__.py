"""A base with an adapter as a model of lm-evaluation-harness and of inspect_ai, and what their logs say."""
