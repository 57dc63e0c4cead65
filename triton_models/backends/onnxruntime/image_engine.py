"""Run the image tower of a CLIP model: any number of images within bounded memory.

The backend's stub and the converter's check both use this module, so the check covers the code that serves.
It does not import torch.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.sessions import (
    CPU,
    DEFAULT,
    EngineName,
    compile_openvino,
    open_onnxruntime,
)

Images = NDArray[np.uint8]
"""Images, uint8 [b, H, W, 3]."""

PIXELS = 16 * 224 * 224
"""The most pixels of one run, to bound the memory of the layers' results. More gained nothing on a CPU."""

GPU_PIXELS = 8 * PIXELS


class ImageSession(Protocol):
    """One open image tower."""

    def run(self, images: Images) -> NDArray[np.float32]:
        """Return the vectors, float32 [b, D]; it must not be called from two threads at once."""


class OnnxRuntimeImages:
    """An image tower in ONNX Runtime, with `threads` for one run; a GPU is used if this build has CUDA."""

    def __init__(self, path: Path, threads: int, device: str = CPU) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = open_onnxruntime(path, options, device)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def run(self, images: Images) -> NDArray[np.float32]:
        """As `ImageSession.run`."""
        result: NDArray[np.float32] = self._session.run([self._output], {self._input: images})[0]
        return result


class OpenVinoImages:
    """An image tower in OpenVINO's CPU plugin, with `threads` for one run."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        self._request = compile_openvino(path, threads, precision).create_infer_request()

    def run(self, images: Images) -> NDArray[np.float32]:
        """As `ImageSession.run`."""
        self._request.infer([images], share_inputs=True)
        # The tensor is the request's own memory, which the next run overwrites.
        result: NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        return result


def open_images(path: Path, threads: int, name: EngineName, device: str = CPU) -> ImageSession:
    """Open an image tower on the engine `name`.

    Raises:
        RuntimeError, ImportError: The engine cannot run the tower here.
    """
    if name.engine == "torch":
        # The import takes seconds and hundreds of megabytes.
        from triton_models.backends.onnxruntime.torch_session import TorchImages

        return TorchImages(path.parent, device, name.precision)
    if name.engine == "openvino" and device == CPU:
        return OpenVinoImages(path, threads, name.precision)
    return OnnxRuntimeImages(path, threads, device)


class ImageEngine:
    """One open image tower; the arguments are those of `engine.Engine`."""

    def __init__(self, model_path: Path, threads: int, name: EngineName = DEFAULT, device: str = CPU) -> None:
        self._session = open_images(model_path, threads, name, device)
        self._pixels = PIXELS if device == CPU else GPU_PIXELS

    def run(self, images: Images) -> NDArray[np.float32]:
        """Embed images, uint8 [b, H, W, 3] with b at least 1: float32 [b, D]."""
        at_once = max(1, self._pixels // (images.shape[1] * images.shape[2]))
        runs = -(-len(images) // at_once)
        parts = [self._session.run(part) for part in np.array_split(images, runs)]
        return parts[0] if runs == 1 else np.concatenate(parts)
