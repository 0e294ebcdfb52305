"""The modules that are adapted."""

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of the projections of a decoder layer, in module order (ties are broken by it)."""
