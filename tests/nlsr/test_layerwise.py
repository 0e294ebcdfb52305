"""Layers one by one or in batches: the same values, and factorisations that never wait for each other."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.nlsr.layerwise import map_layers, map_modules

MODULES = {
    name: jax.random.normal(jax.random.key(i), (5, 24 + i, 6))
    for i, name in enumerate(("q_proj", "v_proj", "up_proj"))
}


def gram(matrix):
    return {"gram": matrix.T @ matrix}


@pytest.mark.parametrize("chunk_bytes", [1, 1500, 2**24])
def test_chunks_do_not_change_values(chunk_bytes):
    for stack in MODULES.values():
        found = map_layers(gram, stack, chunk_bytes=chunk_bytes)["gram"]
        np.testing.assert_allclose(found, np.einsum("lij,lik->ljk", stack, stack), rtol=1e-5, atol=1e-5)


def test_factorisations_are_those_of_each_layer():
    found = map_modules(lambda matrix: jnp.linalg.svd(matrix, compute_uv=False), MODULES, factorises=True)
    for module, stack in MODULES.items():
        np.testing.assert_allclose(found[module], np.linalg.svd(stack, compute_uv=False), rtol=1e-5)


def test_factorisations_of_many_modules_come_to_an_end():
    """Batches of QR and SVD of many modules in one program waited for each other's threads for ever."""
    program = (
        "import jax\n"
        "from nlsr_jax.defenses.lox import lox\n"
        "from nlsr_jax.formats.peft import load_adapter\n"
        f"adapter = load_adapter({str(SHIPPED / 'dpo')!r})\n"
        "for _ in range(10):\n"
        "    jax.block_until_ready(lox(adapter).factors)\n"
        "print('done')\n"
    )
    run = [sys.executable, "-c", program]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120, env=dict(os.environ), check=True)
    assert result.stdout == "done\n"
