"""The torch engine's files of a converted model: written where a GPU may serve it, and checked.

The files are an addition. Where they cannot be made, the reason takes their place, and ONNX Runtime serves.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from converters.errors import CheckFailed, describe
from converters.graph import onnx_export, torch_export
from converters.graph.varlen import CannotPack
from converters.verification import check
from converters.verification.budget import check_seconds
from converters.verification.samples import Samples
from triton_models.backends.onnxruntime.torch_session import TorchImages, TorchTexts
from triton_models.contract.accuracy import BOUNDS, LEAST_COSINE, Precision, cosines
from triton_models.contract.checks import ImageCheck

_TEXTS = 10
_TOKENS = 400
_GPU = "cuda:0"

Report = Callable[[float, str], None]


def is_wanted(precision: Precision) -> bool:
    """Return whether a GPU may serve the model: one is here, or the operator asked for fp16."""
    return precision == "fp16" or torch.cuda.is_available()


def write_texts(
    graph: nn.Module,
    half: nn.Module,
    samples: Samples,
    vocab_size: int,
    lengths: Sequence[int | None],
    directory: Path,
    precision: Precision,
    report: Report,
) -> str | None:
    """Write the files of a packed text model, and return None, or the reason why there are none.

    The graph is compared on the CPU in fp32 and, where there is a GPU, with all texts on it.

    Args:
        graph: As for `torch_export.write_text`.
        half: As for `torch_export.write_text`.
        samples: Texts with the reference's vectors.
        vocab_size: Number of ids.
        lengths: Limits of texts; None stands for no limit.
        directory: An existing directory.
        precision: Sets the bounds on a GPU.
        report: Receiver of the progress.

    Raises:
        OSError: The disk is full.
    """

    def write() -> None:
        # This run finds the windows of the attention, too.
        _compare(lambda ids, rows: _run(graph, ids, rows), samples)
        longest = None if None in lengths else max(filter(None, lengths))
        torch_export.write_text(graph, half, vocab_size, longest, directory)
        _compare(TorchTexts(directory, "cpu", "fp32").run, samples)
        if torch.cuda.is_available():
            engine = TorchTexts(directory, _GPU, "fp16")
            check.verify(engine.run, samples, report, BOUNDS[precision], check_seconds())

    return _written(write, directory)


def write_images(graph: nn.Module, half: nn.Module, images: ImageCheck, directory: Path) -> str | None:
    """Write the files of an image tower, and return as `write_texts`."""

    def write() -> None:
        height, width = images.images.shape[1:3]
        torch_export.write_images(graph, half, height, width, directory)
        few = ImageCheck(images.images[:2], images.embeddings[:2])
        runs = [(TorchImages(directory, "cpu", "fp32"), few)]
        if torch.cuda.is_available():
            runs.append((TorchImages(directory, _GPU, "fp16"), images))
        for engine, some in runs:
            least = float(cosines(engine.run(some.images), some.embeddings).min())
            if not least >= LEAST_COSINE:
                raise CheckFailed(f"torch gives other vectors than the reference (cosine {least:.4f})")

    return _written(write, directory)


def _written(write: Callable[[], None], directory: Path) -> str | None:
    try:
        write()
    except (*onnx_export.ERRORS, CannotPack, CheckFailed) as error:
        reason = describe(error)
        torch_export.refuse(reason, directory)
        return reason
    return None


def _run(graph: nn.Module, ids: Any, lengths: Any) -> Any:  # noqa: ANN401 - arrays, as in `check.Run`
    places = torch.arange(int(lengths.max()))
    with torch.inference_mode():
        found: Any = graph(torch.from_numpy(ids), torch.from_numpy(lengths).unsqueeze(1), places)
    return (found[0] if isinstance(found, tuple) else found).numpy()


def _compare(run: check.Run, samples: Samples) -> None:
    """Compare a few texts, together and beside one without a finite vector.

    Raises:
        CheckFailed: A vector is wrong, or is changed by another text.
    """
    rows = samples.spread(_TEXTS, _TOKENS)
    batches = [(run(*samples.marked_batch(rows)), samples.vectors[rows])]
    if samples.planted_id is not None and len(rows) > 1:
        beside = run(*samples.planted_batch(rows, 1))
        batches.append((np.delete(beside, 1, 0), np.delete(samples.vectors[rows], 1, 0)))
        if np.isfinite(beside[1]).all():
            raise CheckFailed("without padding, it gives a finite vector for what has none")
    least = min(float(cosines(found, expected).min()) for found, expected in batches)
    if not least >= LEAST_COSINE:
        raise CheckFailed(f"without padding, it gives other vectors than the reference (cosine {least:.4f})")
