"""Import of torchvision beside a torch without CUDA.

open_clip takes its image transforms from torchvision, and transformers imports torchvision if it is
installed. For Linux x86_64, PyPI has only a torchvision built for CUDA, whose compiled part cannot be loaded
with the CPU build of torch. The import then fails with `operator torchvision::nms does not exist`, because
torchvision describes two operators of that part while it is imported. The transforms need only Python and
Pillow. This module therefore declares the two operators without code; calling one is still an error.

Call `make_importable` before transformers or open_clip is imported. If torchvision fits, it only imports it.
"""

import importlib
import sys

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, if necessary without its compiled operators.

    Raises:
        ImportError: torchvision cannot be imported for another reason.
        RuntimeError: As for ImportError.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "operator torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        # The operators are declared as long as this object lives.
        _declared.append(library)
        for operator in _OPERATORS:
            library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")
