"""Names of the CPU and of a GPU, for records of measurements that hold there only."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what a measurement depends on: the CPU, a digest of its features, and the engines' versions."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = fields.get("model name") or platform.processor() or platform.machine()
    # Clouds give CPUs of several generations one name, so the features count. ARM calls them "Features".
    can = " ".join(sorted(set(fields.get("flags", fields.get("Features", "")).split())))
    digest = hashlib.sha256(can.encode()).hexdigest()[:8]
    cores = len(os.sched_getaffinity(0))
    versions = f"onnxruntime {version('onnxruntime')}, openvino {version('openvino')}"
    return f"{model} (flags {digest}), {cores} cores, {versions}"


def gpu(device: str) -> str:
    """Return what a measurement on a GPU depends on: its kind, and the engines' versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    if not device.startswith("cuda"):
        return f"CPU, {versions}"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        names = found.stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        names = []
    number = int(device.partition(":")[2] or 0)
    return f"{names[number] if number < len(names) else 'unknown GPU'}, {versions}"
