"""Commands without their start: a process that has imported the libraries forks for every one of them.

Python and the imports of JAX, Flax, Matplotlib and transformers take longer than most commands work on tiny inputs.
The process opens no JAX backend and imports nothing of this project; ``tests.plain_figures`` stands in for the
module that draws the figures of reports, and nothing waits for the disk. A command that changes what the libraries
have read from the environment has to be started anew; see ``Forks.fits``.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import types

from tests import plain_figures

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONGEST = 400
"""Seconds that a command may take."""
LIBRARIES = (
    *("flax.linen", "jax.numpy", "optax", "orbax.checkpoint", "safetensors.numpy", "scipy.linalg", "rich.table"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"),
)
FIGURES = "nlsr_jax.report.figures"
TOKENIZERS = ("AutoTokenizer", "PreTrainedTokenizerFast")
_LATER = ("XLA_FLAGS", "HOME", "PYTEST_CURRENT_TEST")
"""Variables that nothing reads while the libraries are imported."""
_SET = (
    *("TPU_SKIP_MDS_QUERY", "TF_CPP_MIN_LOG_LEVEL", "TORCHINDUCTOR_CACHE_DIR"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)
"""Variables that JAX, PEFT and scikit-learn set when they are imported."""


class Forked:
    """A command that runs, with what ``subprocess.Popen`` has: ``pid``, ``stderr``, ``returncode``, ``wait`` …"""

    def __init__(self, reported: int, stderr: int | None = None):
        self._reported = os.fdopen(reported, "rb")
        self.stderr = None if stderr is None else os.fdopen(stderr, encoding="utf-8", errors="surrogateescape")
        self.returncode: int | None = None
        self.pid = int(self._reported.readline())

    def poll(self) -> int | None:
        """Return the status, None while the command runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the status.

        Raises:
          subprocess.TimeoutExpired: it runs longer.
        """
        if self.returncode is None:
            if not select.select([self._reported], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked command", timeout)
            self.returncode = os.waitstatus_to_exitcode(int(self._reported.read()))
            self._reported.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Wait for the end; returns the rest of standard error in the second place."""
        with self.stderr:
            text = self.stderr.read()
        self.wait(timeout)
        return None, text

    def send_signal(self, number: int) -> None:
        """Send a signal to the command unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the command."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks.

    Attributes:
      env: the environment that its libraries have read.
    """

    def __init__(self, env: dict[str, str]):
        self.env = env
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair()
        with other:
            command = [sys.executable, "-m", "tests.e2e.forks", str(other.fileno())]
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=null, stdout=null, pass_fds=[other.fileno()]
            )
        atexit.register(self.close)

    def fits(self, arguments: list[str], env: dict[str, str]) -> bool:
        """Say whether ``python ARGUMENTS`` can be forked in an environment."""
        changed = {name for name in {*env, *self.env} if env.get(name) != self.env.get(name)}
        later = (
            name in _LATER or name.startswith("NLSR_") or (name[:4] == "JAX_" and name in env) for name in changed
        )
        return arguments[0] in ("-c", "-m") and all(later)

    def run(self, arguments: list[str], env: dict[str, str], text: str | None) -> subprocess.CompletedProcess:
        """Run ``python ARGUMENTS`` with ``text`` as its input; returns the finished process with its text."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            given.write((text or "").encode())
            given.seek(0)
            status = self._request(arguments, env, [given.fileno(), out.fileno(), error.fileno()]).wait()
            texts = []
            for file in (out, error):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(arguments, status, *texts)

    def start(self, arguments: list[str], env: dict[str, str]) -> Forked:
        """Start ``python ARGUMENTS`` with its standard error as a pipe."""
        read, write = os.pipe()
        with pathlib.Path(os.devnull).open("r+b") as null:
            try:
                return self._request(arguments, env, [null.fileno(), null.fileno(), write], stderr=read)
            finally:
                os.close(write)

    def _request(self, arguments, env, files: list[int], stderr: int | None = None) -> Forked:
        read, write = os.pipe()
        data = json.dumps({"arguments": arguments, "env": env}).encode()
        with self._lock:
            socket.send_fds(self._socket, [struct.pack("I", len(data))], [*files, write])
            self._socket.sendall(data)
        os.close(write)
        return Forked(read, stderr)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()


def own_environment() -> dict[str, str]:
    """The environment of this process without what the libraries of the tests have put there."""
    return {**{name: value for name, value in os.environ.items() if name not in _SET}, "JAX_PLATFORMS": "cpu"}


@functools.cache
def forks() -> Forks:
    """Return the process that forks for this one, started where it is first needed."""
    return Forks(own_environment())


def _serve(connection: socket.socket) -> None:
    """Fork for every request until nobody is left who could make one; only commands return."""
    while True:
        header, files, _, _ = socket.recv_fds(connection, 4, 4)
        if not header:
            _reap(0)
            os._exit(0)
        data = b""
        while len(data) < struct.unpack("I", header)[0]:
            data += connection.recv(struct.unpack("I", header)[0] - len(data))
        if not os.fork():
            connection.close()
            _report(files[3])
            _become(json.loads(data), files)
            return
        for file in files:
            os.close(file)
        _reap(os.WNOHANG)


def _reap(options: int) -> None:
    """Take note of children that have ended; with ``options`` 0 of all children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _report(file: int) -> None:
    """Fork once more, and report what the new process is and how it ends; only that one returns."""
    command = os.fork()
    if not command:
        return
    os.write(file, b"%d\n" % command)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(command, signal.SIGKILL))
    signal.alarm(LONGEST)
    os.closerange(0, file)
    os.write(file, b"%d" % os.waitpid(command, 0)[1])
    os._exit(0)


def _become(request: dict, files: list[int]) -> None:
    """Take over the files, the environment and what JAX would read from it now."""
    import jax

    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    before, env = dict(os.environ), request["env"]
    os.environ.clear()
    os.environ.update(env)
    kinds = {bool: lambda text: text.lower() in ("1", "true", "t", "yes", "y", "on"), int: int, float: float}
    for name, text in env.items():
        if name.startswith("JAX_") and before.get(name) != text:
            held = jax.config.values[name.lower()]
            jax.config.update(name.lower(), kinds.get(type(held), str)(text))
    if plain_figures.DRAW in env:
        del sys.modules[FIGURES]
    _end(_execute, *request["arguments"])


def _execute(kind: str, what: str, *arguments: str) -> None:
    """Do what ``python -c CODE`` or ``python -m MODULE`` does."""
    sys.argv = [what if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)


def _end(function, *arguments) -> None:
    """End the process as Python does after a function, but for the memory that it would free."""
    status = 0
    try:
        function(*arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Import the libraries and serve the socket whose number is given."""
    for library in LIBRARIES:
        importlib.import_module(library)
    import transformers

    for name in TOKENIZERS:
        getattr(transformers, name)
    sys.modules[FIGURES] = plain_figures
    os.fsync = lambda file: None
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
