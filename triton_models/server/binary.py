"""Find the Triton in the PyPI package nvidia-pytriton and check that it can run on this machine.

This module knows the package's layout; it starts only short checks, never the server. It does not import the
package.
"""

import filecmp
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from triton_models.client.errors import EmbeddedTritonError

CONTAINER = Path("/opt/tritonserver")
"""The directory of Triton and its C++ backends in NVIDIA's container."""

ELSEWHERE = "set TRITON_GRPC_ADDRESS to a Triton that runs elsewhere"
_PROJECT = Path(__file__).parent.parent.parent
_BACKEND_SOURCE = Path(__file__).parent.parent / "backends" / "onnxruntime"
_STUB = "triton_python_backend_stub"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_CHECK_SECONDS = 30.0


@dataclass(frozen=True)
class TritonBinary:
    """The parts of one Triton installation.

    Attributes:
        server: Executable.
        caches: Directory of the response cache libraries.
        backends: Directory of the backends, made by `prepare_backends` outside NVIDIA's container.
        environment: Environment variables of the process.
    """

    server: Path
    caches: Path
    backends: Path
    environment: dict[str, str]


def find_triton(backends: Path, container: Path = CONTAINER) -> TritonBinary:
    """Return the Triton to start: inside NVIDIA's container its own, otherwise the one from PyPI.

    Triton from PyPI gets a directory of backends at `backends`; the container has its own. If ENGINE asks for
    torch, the container's Triton gets that directory, too: NVIDIA's backend for `model.onnx` has no torch.

    Raises:
        EmbeddedTritonError: Triton is not installed or cannot run on this machine. The message says which,
            and what to do.
    """
    server = container / "bin" / "tritonserver"
    if server.is_file():
        return _in_container(server, container, backends)
    package = _find_package()
    carried = package / "tritonserver"
    stub = carried / "python_backend_stubs" / _PYTHON / _STUB
    if not stub.is_file():
        raise EmbeddedTritonError(
            f"nvidia-pytriton has no stub for Python {_PYTHON}: use 3.11 or {ELSEWHERE}"
        )
    if os.pathsep in str(Path(sys.executable).parent):
        raise EmbeddedTritonError(
            f"the embedded Triton finds no Python in a directory with {os.pathsep!r} in its path: "
            f"move the environment or {ELSEWHERE}"
        )
    environment = _environment(package)
    _check_numpy()
    _check_runs([str(stub)], "Expected", environment)
    _check_runs([str(carried / "bin" / "tritonserver"), "--help"], "Usage", environment)
    prepare_backends(carried, stub, backends)
    return TritonBinary(carried / "bin" / "tritonserver", carried / "caches", backends, environment)


def _in_container(server: Path, container: Path, backends: Path) -> TritonBinary:
    """Return NVIDIA's Triton with its own backends, or with ours for the torch engine."""
    environment = dict(os.environ)
    if not environment.get("ENGINE", "").startswith("torch:"):
        return TritonBinary(server, container / "caches", container / "backends", environment)
    _check_numpy()
    prepare_backends(container, container / "backends" / "python" / _STUB, backends)
    environment["PATH"] = _path_with_python(environment)
    return TritonBinary(server, container / "caches", backends, environment)


def prepare_backends(carried: Path, stub: Path, backends: Path) -> None:
    """Make the directory of backends.

    The stub finds its libraries relative to itself, so it is linked and never copied. Triton refuses a
    backend's library that is a link out of the backends directory, so the library is copied.

    Args:
        carried: Directory of Triton in nvidia-pytriton.
        stub: Executable that runs a Python backend's model.
        backends: Directory to make.
    """
    python, carried_python = backends / "python", carried / "backends" / "python"
    python.mkdir(parents=True, exist_ok=True)
    _link(python / _STUB, stub)
    _link(python / "triton_python_backend_utils.py", carried_python / "triton_python_backend_utils.py")
    _link(backends / "onnxruntime", _BACKEND_SOURCE)
    library = python / "libtriton_python.so"
    if not library.is_file() or not filecmp.cmp(library, carried_python / library.name, shallow=False):
        temporary = library.with_name(f".{library.name}.{os.getpid()}")
        shutil.copyfile(carried_python / library.name, temporary)
        temporary.replace(library)


def engine_problem(engine: str) -> str | None:
    """Return why ENGINE cannot have this value on this machine; None if it can, or if the check fails."""
    command = [sys.executable, "-m", "triton_models.backends.onnxruntime.sessions", engine]
    try:
        done = subprocess.run(
            command, cwd=_PROJECT, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout else None


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _find_package() -> Path:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise EmbeddedTritonError(f"the embedded Triton runs on Linux x86_64 only: {ELSEWHERE}")
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise EmbeddedTritonError(
            f"nvidia-pytriton is not installed: install requirements.txt or {ELSEWHERE}"
        )
    return Path(spec.origin).parent


def _environment(package: Path) -> dict[str, str]:
    """Return the variables with which server and stub find their libraries and this environment's Python."""
    environment = dict(os.environ)
    libraries = [str(package.parent / "nvidia_pytriton.libs")]
    own = Path(sysconfig.get_config_var("LIBDIR") or "") / str(sysconfig.get_config_var("INSTSONAME"))
    if own.is_file():
        # The interpreter's own libpython, if it has one, must be found before the system's, which can be of
        # another patch level.
        libraries.append(str(own.parent))
    if environment.get("LD_LIBRARY_PATH"):
        libraries.append(environment["LD_LIBRARY_PATH"])
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    environment["PATH"] = _path_with_python(environment)
    environment.pop("PYTHONHOME", None)
    # ONNX Runtime sends telemetry to its maker unless this is set (`backends/onnxruntime/sessions.py`).
    environment.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return environment


def _path_with_python(environment: dict[str, str]) -> str:
    """Return PATH with this environment's Python first: the stub takes the first python3."""
    return os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])


def _check_numpy() -> None:
    """Refuse numpy 2, with which the stub would return wrong numbers without an error."""
    # Every user of this module has imported numpy already, and the stub gets the same version.
    import numpy as np

    if int(np.__version__.split(".")[0]) >= 2:
        raise EmbeddedTritonError(
            f"the embedded Triton needs numpy<2, {np.__version__} is installed: install requirements.txt"
        )


def _check_runs(command: list[str], sign: str, environment: dict[str, str]) -> None:
    """Run a command that ends at once and prints `sign`, which shows that its libraries are all there.

    Without this check, a stub that cannot start would make Triton's first load call hang forever.
    """
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedTritonError(f"{Path(command[0]).name} cannot run here: {error}; {ELSEWHERE}") from error
    output = done.stdout + done.stderr
    if sign in output:
        return
    reason = output.strip().splitlines()[-1] if output.strip() else f"exit status {done.returncode}"
    if "libpython" in reason:
        reason += f" (Debian and Ubuntu: apt-get install libpython{_PYTHON})"
    raise EmbeddedTritonError(f"{Path(command[0]).name} cannot run here: {reason}; or {ELSEWHERE}")
