"""torchvision beside a torch without CUDA.

open_clip takes its image transforms from torchvision, and transformers imports torchvision wherever it is
installed. PyPI has torchvision for Linux x86_64 only as built for CUDA; beside the CPU build of torch its
compiled part cannot be loaded, and the import ends with `operator torchvision::nms does not exist`, because
torchvision describes two operators of that part before anyone calls them. The transforms are Python
and Pillow. So the two operators are declared, without code: calling one is an error, as it would be anyhow.

To be called before transformers or open_clip is imported. Nothing happens where torchvision fits.
"""

import importlib
import sys

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, if need be without its compiled operators.

    Raises:
        ImportError, RuntimeError: it cannot be imported for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "operator torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        # Declared for as long as this object lives.
        _declared.append(library)
        for operator in _OPERATORS:
            library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")
