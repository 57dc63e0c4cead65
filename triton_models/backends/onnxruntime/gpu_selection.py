"""Choice of the engine on a GPU: packed torch in half precision, or ONNX Runtime on CUDA.

The engines are measured once for each kind of GPU, at the first load there, and recorded in `engine.json` as
on a CPU. The accuracy is that of the conversion's precision. It does not import torch itself.
"""

from collections.abc import Callable
from pathlib import Path

import onnxruntime

from triton_models.backends.onnxruntime.engine_selection import (
    Measurement,
    Selection,
    fastest,
    recorded_or,
)
from triton_models.backends.onnxruntime.machine import gpu
from triton_models.backends.onnxruntime.packed_files import Unreadable, read
from triton_models.backends.onnxruntime.sessions import (
    CPU,
    CUDA,
    DEFAULT,
    TORCH_ENGINES,
    EngineName,
    fixed_engine,
)

Measure = Callable[[EngineName], Measurement]


def applies(device: str) -> bool:
    """Return whether the engine is chosen here: on a GPU, or where the operator asks for torch."""
    return device != CPU or fixed_engine() in TORCH_ENGINES


def gpu_engine_for(
    directory: Path, threads: int, device: str, measure: Measure | None, *, anew: bool = False
) -> Selection:
    """Return the engine for the model in `directory`: fixed by ENGINE, recorded, or measured now.

    ONNX Runtime gets a model without a graph for torch, whatever ENGINE says, and the reason is kept.

    Args:
        directory: Directory of the model's version.
        threads: Threads of ONNX Runtime.
        device: Such as `cuda:0`.
        measure: Measures one engine; None if there is no sample.
        anew: Measure even if there is a record.

    Raises:
        UnknownEngine: ENGINE names no engine.
    """
    fixed = fixed_engine()
    if fixed is not None and fixed not in TORCH_ENGINES:
        return Selection(str(DEFAULT), 1, gpu(device), threads, True, [])
    names = TORCH_ENGINES if fixed is None else (fixed,)
    try:
        read(directory)
    except Unreadable as error:
        refused = [Measurement(str(name), 1, None, None, None, str(error)) for name in names]
        return Selection(str(DEFAULT), 1, gpu(device), threads, fixed is not None, refused)
    if fixed is not None or measure is None:
        return Selection(str(fixed or DEFAULT), 1, gpu(device), threads, fixed is not None, [])

    def choose() -> Selection:
        measured = [measure(name) for name in names]
        best = fastest(measured)
        if best is None or CUDA in onnxruntime.get_available_providers():
            measured.append(measure(DEFAULT))
            best = fastest(measured)
        return Selection(best.engine if best else str(DEFAULT), 1, gpu(device), threads, False, measured)

    return recorded_or(directory, threads, None, choose, anew=anew, here=gpu(device))
