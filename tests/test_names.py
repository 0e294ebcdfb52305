"""The names of ``nlsr_jax``, which are imported when they are asked for."""

import ast
import pathlib
import subprocess
import sys

import pytest

import nlsr_jax


def test_every_name_is_what_type_checkers_are_told():
    told = {}
    for node in ast.walk(ast.parse(pathlib.Path(nlsr_jax.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("nlsr_jax."):
            told |= {name.name: node.module for name in node.names}
    assert set(told) == set(nlsr_jax.__all__)
    for name, module in told.items():
        assert getattr(nlsr_jax, name) is getattr(sys.modules[module], name)
        assert name in dir(nlsr_jax)


def test_what_is_not_there():
    for name in ("nothing", "_nothing", "__nothing__"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(nlsr_jax, name)


@pytest.mark.parametrize(
    ("statement", "others"),
    [
        ("import nlsr_jax; nlsr_jax.errors.InputError", ("jax", "numpy")),
        ("import nlsr_jax.report", ("jax", "matplotlib")),
        ("import nlsr_jax.pipeline", ("flax", "transformers", "matplotlib")),
        ("import nlsr_jax; nlsr_jax.parallel.make_mesh", ("flax",)),
        ("from nlsr_jax import *; amplify, Adapter, generate", ("transformers",)),
    ],
)
def test_who_needs_no_model_waits_for_none_of_its_libraries(statement, others):
    check = f"import sys\n{statement}\nprint(sorted(set(sys.modules) & set({others})))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
