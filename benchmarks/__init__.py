"""Benchmarks against peers. As in the commands, OpenBLAS has one thread (PyTorch has its own LAPACK)."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
