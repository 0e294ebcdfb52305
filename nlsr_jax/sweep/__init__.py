"""Sweeps: cells, the store of their rows, and the runner that makes each cell once."""
