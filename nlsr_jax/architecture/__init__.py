"""What a model is before it is built: its config, its rotary embedding, and whether an adapter fits it."""
