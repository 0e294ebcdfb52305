"""Files as such: paths, limits, JSON, safetensors, digests, and outputs that appear whole or not at all."""
