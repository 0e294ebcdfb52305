"""The gate: whether a model may be served, by measured rates with intervals and by bounds on them."""
