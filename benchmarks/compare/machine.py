"""What a result depends on: the machine, the versions, the commit, the date."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.compare.environments import ROOT, versions
from benchmarks.compare.servers import Server

_PACKAGES = (
    *(
        "infinity-emb",
        "fastembed",
        "sentence-transformers",
        "transformers",
        "torch",
        "optimum",
        "optimum-onnx",
    ),
    *("onnxruntime", "openvino", "nvidia-pytriton", "tokenizers", "fastapi", "uvicorn", "numpy"),
    *("open-clip-torch", "pillow"),
)


def describe_machine(servers: Sequence[Server]) -> dict[str, Any]:
    """For the record."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _output(["git", "describe", "--always", "--dirty"]),
        "cpu": {"model": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "bf16": _flag("bf16")},
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {
            environment or "ours": versions(environment, list(_PACKAGES))
            for environment in dict.fromkeys(server.environment for server in servers)
        },
    }


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()


def _cpu_model() -> str:
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _flag(part: str) -> bool:
    return any(line.startswith("flags") and part in line for line in _cpuinfo())


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
