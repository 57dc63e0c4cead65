"""Conversion of `model.onnx` from fp32 to fp16 for GPUs: half the memory, and products on tensor cores.

The inputs and the output vectors keep their types. Does not import torch.
"""

import warnings
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def convert(path: Path) -> None:
    """Rewrite the model's file, and the file of weights beside it if there is one.

    Raises:
        OSError: The disk is full.
    """
    model = onnx.load(path)
    weights = path.with_name(path.name + ".data")
    is_split = weights.exists()
    with warnings.catch_warnings():
        # It warns of every number that becomes zero or the largest half; the check of the vectors decides.
        warnings.simplefilter("ignore", UserWarning)
        # The exporter has written every shape, and inferring them again fails on files of over 2 GB.
        half = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    weights.unlink(missing_ok=True)
    onnx.save(half, path, save_as_external_data=is_split, location=weights.name if is_split else None)
