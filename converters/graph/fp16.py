"""`model.onnx` from fp32 to fp16, for GPUs: half the memory, and products on the tensor cores.

Inputs and the vectors that come out keep their types. Imports no torch.
"""

import warnings
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def convert(path: Path) -> None:
    """Rewrite the file, and the weights beside it where there are any.

    Raises:
        OSError: the disk is full.
    """
    model = onnx.load(path)
    weights = path.with_name(path.name + ".data")
    is_split = weights.exists()
    with warnings.catch_warnings():
        # One for each number that becomes zero or the largest half; the check of the vectors decides.
        warnings.simplefilter("ignore", UserWarning)
        # The exporter has written every shape; inferring them again fails on files of over 2 GB.
        half = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    weights.unlink(missing_ok=True)
    onnx.save(half, path, save_as_external_data=is_split, location=weights.name if is_split else None)
