"""The machine and the versions that a figure was measured with."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("nvidia-pytriton", "tritonclient", "onnxruntime", "openvino", "uvicorn", "fastapi", "numpy")


def hardware() -> dict[str, Any]:
    """Describe the machine that sends; with a loopback URL it is the server's as well."""
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "gpus": gpus(),
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of the server's main packages in this environment."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    names = (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def has_cpu_flag(part: str) -> bool:
    """Return whether the CPU has a feature whose name contains `part`."""
    return any(line.startswith("flags") and part in line for line in _cpuinfo())


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def gpus() -> list[str]:
    """Return the name and the driver version of each NVIDIA GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []
