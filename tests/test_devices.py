"""A device that is not there is one line, before any work."""

import pytest

from nlsr_jax import devices
from nlsr_jax.errors import InputError
from tests.adapter_files import flags, save_family
from tests.commands.programs import finish, start
from tests.e2e.command import error_line, run

OPENS = "from nlsr_jax.devices import open_devices\nopen_devices()\nprint('opened')"
COMPUTES = "import jax.numpy\nprint(jax.numpy.zeros(2) + 1)"


def opened(tmp_path, body, **env):
    """Run a program that wants a device; returns its status and its lines on standard error."""
    nothing = {"JAX_PLATFORMS": "", "JAX_PLATFORM_NAME": "", "CUDA_VISIBLE_DEVICES": ""}
    code, _, error = finish(start(tmp_path, body, env={**nothing, **env}))
    return code, error.splitlines()


def test_the_main_job_names_the_missing_device(tmp_path):
    """The case of the field: an AssertionError without a text."""
    save_family(tmp_path)
    arguments = [*flags(tmp_path, "aligned", "finetuned"), "--method", "magnitude", "--output", tmp_path / "out"]
    env = {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    found = run("realign", *arguments, env=env, check=False)
    line = error_line(found)
    assert "JAX_PLATFORMS is 'cuda', but there is no such device" in line
    assert "CUDA_VISIBLE_DEVICES is ''" in line
    assert "available: cpu (1); set JAX_PLATFORMS to an available platform, or unset it" in line
    assert found.stderr.splitlines() == [line]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        (OPENS, "JAX_PLATFORMS", "gpuu"),
        (COMPUTES, "JAX_PLATFORMS", "cpu,gpuu"),
        (COMPUTES, "JAX_PLATFORM_NAME", "gpuu"),
    ],
    ids=["opens", "computes", "name"],
)
def test_a_platform_that_is_not_there_is_named(tmp_path, body, name, value):
    code, lines = opened(tmp_path, body, **{name: value})
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {name} is '{value}', but there is no such device (")
    assert "gpuu" in lines[0].partition("(")[2]
    assert "available: cpu (1)" in lines[0]
    assert lines[0].endswith(f"set {name} to an available platform, or unset it")


@pytest.mark.parametrize("fault", ["raise ImportError('libcudart\\nis gone')", "def initialize():\n    1 / 0"])
def test_a_plugin_that_does_not_work_is_one_line_more(tmp_path, fault):
    plugin = tmp_path / "plugins" / "jax_plugins" / "broken"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(fault)
    body = f"sys.path.append({str(tmp_path / 'plugins')!r})\n{OPENS}"
    code, lines = opened(tmp_path, body, JAX_PLATFORMS="cuda")
    assert code == 1
    assert len(lines) == 2
    assert "Jax plugin configuration error" in lines[0]
    assert "libcudart is gone" in lines[0] or "ZeroDivisionError" in lines[0]
    assert lines[1].startswith("error: JAX_PLATFORMS is 'cuda', but there is no such device")
    code, lines = opened(tmp_path, body)
    assert (code, len(lines)) == (0, 1)


def test_other_errors_stay_what_they_are(tmp_path):
    code, lines = opened(tmp_path, "import jax\nraise RuntimeError('of our own')")
    assert code == 1
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "RuntimeError: of our own"
    for error in (RuntimeError("x"), AssertionError(), ValueError("x")):
        devices.check_opened(error)


def test_jaxs_advice_is_left_out(monkeypatch):
    monkeypatch.setattr(devices, "_at_hand", lambda: "cpu (1)")
    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    text = "Unable to initialize backend 'x': it\nfails (you may need to uninstall the failing plugin package)"
    with pytest.raises(InputError, match=r"cannot open its devices \(Unable to initialize backend 'x': it fails\)"):
        devices.check_opened(RuntimeError(text))
    monkeypatch.setenv("JAX_PLATFORMS", "x")
    with pytest.raises(InputError, match="JAX_PLATFORMS is 'x'"):
        devices.check_opened(RuntimeError(text))
