"""Files in general: paths, limits, JSON, safetensors, digests, and outputs that appear complete or not at all."""
