"""What is installed: the package with its console command and the tiny study, and none of the research programs."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.e2e.command import ROOT

pytestmark = pytest.mark.slow
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this tree, unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns(".*", "runs", "tests", "docs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=source, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "installed")
    return folder / "installed"


def python(installed, *arguments, **options):
    """Run Python with what is installed, in a folder that is not the tree."""
    env = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-P", *arguments], cwd=installed.parent, env=env, capture_output=True, text=True,
        timeout=300, check=False, **options,
    )  # fmt: skip


def test_the_package_alone_is_installed(installed):
    (information,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {"nlsr_jax", information.name}
    assert "nlsr = nlsr_jax.commands.console:main" in (information / "entry_points.txt").read_text()
    assert (installed / "nlsr_jax" / "py.typed").exists()
    for name in ("template.html", "style.css", "sort.js"):
        assert (installed / "nlsr_jax" / "report" / name).exists()


def test_it_has_the_tiny_base_and_adapters_to_the_byte(installed):
    found = python(installed, "-c", "from nlsr_jax.configs.tiny import SHIPPED; print(SHIPPED)")
    shipped = pathlib.Path(found.stdout.strip())
    assert installed in shipped.parents, found.stderr
    files = [path for path in shipped.rglob("*") if path.is_file()]
    for path in files:
        assert path.read_bytes() == (ROOT / "checkpoints" / "tiny-llama3" / path.relative_to(shipped)).read_bytes()
    weights = {path.parent.name for path in files if path.suffix == ".safetensors"}
    assert weights == {"base", "sft", "dpo", "finetuned_sst2"}


def test_its_command_realigns_and_verifies(installed, tmp_path):
    shipped = installed / "nlsr_jax" / "configs" / "tiny-llama3"
    given = [f"--aligned={shipped / 'dpo'}", f"--finetuned={shipped / 'finetuned_sst2'}", "--method=magnitude"]
    done = python(installed, "-m", "nlsr_jax", "realign", *given, f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    done = python(installed, "-m", "nlsr_jax", "verify", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_base_that_it_has_not_says_where_it_is_to_be_had(installed):
    done = python(installed, "-m", "nlsr_jax", "evaluate", "--config=tiny_qwen2", "--output=out.json")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "checkpoints/tiny-qwen2/base: the base of --config tiny_qwen2 is not there" in line
    assert "nlsr pretrain --config tiny_qwen2 --output DIR and give --base DIR" in line
