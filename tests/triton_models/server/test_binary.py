"""Finding the Triton that nvidia-pytriton carries, and saying what is wrong where it cannot run."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from triton_models.server.binary import find_triton

PROJECT = Path(__file__).parents[3]

FIND = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from triton_models.client.errors import EmbeddedTritonError
from triton_models.server.binary import find_triton
try:
    print(find_triton(Path(sys.argv[1])).backends, "pytriton" in sys.modules)
except EmbeddedTritonError as error:
    print(error)
"""


def _find(backends: Path, *paths: Path, isolated: bool = False) -> str:
    """What `find_triton` says in a process of its own, with `paths` first in its path."""
    options = ["-S"] if isolated else []
    command = [sys.executable, *options, "-c", FIND, str(backends), str(PROJECT), *map(str, paths)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def _package() -> Path:
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_nvidias_own_triton_comes_first(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").touch()
    found = find_triton(tmp_path / "unused", container=tmp_path)
    assert (found.server, found.backends) == (tmp_path / "bin" / "tritonserver", tmp_path / "backends")
    assert not (tmp_path / "unused").exists()


def test_nvidias_triton_gets_our_backend_for_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "torch:fp16")
    container, backends = tmp_path / "container", tmp_path / "backends"
    for name in ("triton_python_backend_stub", "triton_python_backend_utils.py", "libtriton_python.so"):
        path = container / "backends" / "python" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (container / "bin").mkdir()
    (container / "bin" / "tritonserver").touch()
    found = find_triton(backends, container=container)
    assert found.backends == backends
    assert (backends / "onnxruntime" / "model.py").is_file()
    assert {path.name for path in (backends / "python").iterdir()} == {
        path.name for path in (container / "backends" / "python").iterdir()
    }
    assert found.environment["PATH"].startswith(str(Path(sys.executable).parent))


def test_the_package_is_found_without_being_imported(tmp_path: Path) -> None:
    assert _find(tmp_path) == f"{tmp_path} False"
    # The stub finds its libraries relative to itself; Triton refuses a library that is linked.
    assert (tmp_path / "python" / "triton_python_backend_stub").is_symlink()
    assert not (tmp_path / "python" / "libtriton_python.so").is_symlink()
    assert (tmp_path / "onnxruntime" / "model.py").is_file()


def test_damaged_backends_are_made_anew(tmp_path: Path) -> None:
    _find(tmp_path)
    (tmp_path / "python" / "libtriton_python.so").write_bytes(b"cut")
    (tmp_path / "onnxruntime").unlink()
    (tmp_path / "onnxruntime").symlink_to("/nowhere")
    _find(tmp_path)
    assert (tmp_path / "python" / "libtriton_python.so").stat().st_size > 1_000_000
    assert (tmp_path / "onnxruntime" / "model.py").is_file()


def test_without_the_package_it_says_what_to_do(tmp_path: Path) -> None:
    said = _find(tmp_path, isolated=True)
    assert "nvidia-pytriton is not installed" in said
    assert "TRITON_GRPC_ADDRESS" in said


def test_a_stub_that_lacks_a_library_is_named(tmp_path: Path) -> None:
    # A copy of the package without the directory of libraries beside it.
    package = tmp_path / "pytriton"
    shutil.copytree(
        _package() / "tritonserver", package / "tritonserver", ignore=shutil.ignore_patterns("bin")
    )
    (package / "__init__.py").touch()
    said = _find(tmp_path / "backends", tmp_path)
    assert "triton_python_backend_stub cannot run here" in said
    assert "libcudart" in said
    assert "TRITON_GRPC_ADDRESS" in said


def test_a_python_without_a_stub_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytriton").mkdir()
    (tmp_path / "pytriton" / "__init__.py").touch()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"no stub for Python {version}" in _find(tmp_path / "backends", tmp_path)


@pytest.mark.parametrize("found", ["2.1.0", "10.0"])
def test_numpy_two_is_refused(tmp_path: Path, found: str) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text(f"__version__ = '{found}'")
    assert "numpy<2" in _find(tmp_path / "backends", tmp_path)
