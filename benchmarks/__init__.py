"""Benchmarks against peers. As in commands, OpenBLAS has one thread (PyTorch brings a LAPACK of its own)."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
