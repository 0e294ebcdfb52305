"""What is installed: the package with its console command and the tiny study, and none of the research programs."""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import nlsr_jax
from tests.e2e.command import ROOT, error_line

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
    entries = (information / "entry_points.txt").read_text()
    assert "nlsr = nlsr_jax.commands.console:main" in entries
    assert "[inspect_ai]\nnlsr_jax = nlsr_jax.harnesses.inspect_ai" in entries
    assert (installed / "nlsr_jax" / "py.typed").exists()
    for name in ("template.html", "head.html", "style.css", "sort.js"):
        assert (installed / "nlsr_jax" / "report" / name).exists()


def test_its_metadata_is_that_of_the_tree(installed):
    (information,) = installed.glob("*.dist-info")
    about = email.message_from_string((information / "METADATA").read_text())
    assert about["Version"] == nlsr_jax.__version__
    versions = re.findall(r"Python :: (3\.\d+)$", "\n".join(about.get_all("Classifier")), re.MULTILINE)
    assert versions == ["3.11", "3.12", "3.13"]
    extras = {"data", "study", "gpu", "tpu", "ray", "lm-eval", "inspect", "attest", "sigstore", "test", "docs"}
    assert extras == set(about.get_all("Provides-Extra"))
    core = {re.match(r"[\w-]+", text)[0] for text in about.get_all("Requires-Dist") if "extra ==" not in text}
    assert {"jax", "flax", "transformers"} <= core
    assert not core & {"torch", "datasets", "pyarrow", "scikit-learn", "ray"}
    assert not core & {"lm_eval", "inspect_ai", "cryptography", "sigstore"}


def test_its_help_imports_no_library(installed):
    shown = "import sys; from nlsr_jax.commands.console import main; main(['--help']); print(*sys.modules)"
    done = python(installed, "-c", shown)
    assert done.stdout.startswith("usage: nlsr VERB"), done.stderr
    modules = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not modules & {"absl", "jax", "numpy", "flax", "transformers", "rich"}


def test_it_has_the_tiny_base_and_adapters_to_the_byte(installed):
    found = python(installed, "-c", "from nlsr_jax.configs.tiny import SHIPPED; print(SHIPPED)")
    shipped = pathlib.Path(found.stdout.strip())
    assert installed in shipped.parents, found.stderr
    files = [path for path in shipped.rglob("*") if path.is_file()]
    for path in files:
        assert path.read_bytes() == (ROOT / "checkpoints" / "tiny-llama3" / path.relative_to(shipped)).read_bytes()
    weights = {path.parent.name for path in files if path.suffix == ".safetensors"}
    assert weights == {"base", "sft", "dpo", "finetuned_sst2"}


CORE = """
import sys
sys.modules |= dict.fromkeys(("torch", "datasets", "pyarrow", "sklearn", "ray"))
from nlsr_jax.commands.console import main
main()
"""


def nlsr(installed, *arguments):
    """Run the command where no library of an extra can be imported."""
    return python(installed, "-c", CORE, *map(str, arguments))


def test_its_command_realigns_and_verifies_without_extras(installed, tmp_path):
    shipped = installed / "nlsr_jax" / "configs" / "tiny-llama3"
    given = [f"--aligned={shipped / 'dpo'}", f"--finetuned={shipped / 'finetuned_sst2'}"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join((shipped / "calibration.jsonl").read_text().splitlines(keepends=True)[:8]))
    given += [f"--base={shipped / 'base'}", f"--calibration={rows}"]
    done = nlsr(installed, "realign", *given, f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    done = nlsr(installed, "verify", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_library_is_one_line_with_its_extra(installed, tmp_path):
    shipped = installed / "nlsr_jax" / "configs" / "tiny-llama3"
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    given = [
        f"--base={shipped / 'base'}",
        f"--aligned={shipped / 'dpo'}",
        f"--finetuned={shipped / 'finetuned_sst2'}",
    ]
    done = nlsr(installed, "realign", *given, f"--calibration={tmp_path / 'rows.parquet'}", "--output=none")
    assert "pyarrow is not installed; pip install 'nlsr_jax[data]' installs it" in error_line(done)


def test_a_base_that_it_has_not_says_where_it_is_to_be_had(installed):
    done = python(installed, "-m", "nlsr_jax", "evaluate", "--config=tiny_qwen2", "--output=out.json")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "checkpoints/tiny-qwen2/base: the base of --config tiny_qwen2 is not there" in line
    assert "nlsr pretrain --config tiny_qwen2 --output DIR and give --base DIR" in line
