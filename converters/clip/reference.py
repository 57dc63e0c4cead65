"""Reference of a CLIP model: open_clip's own vectors, with which every converted vector is compared.

The reference always runs in float32 on the CPU. Weights are read without running pickled code.
"""

import inspect
import json
import logging
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from converters.clip.source import ClipFound
from converters.clip.tokenizer import ClipTokenizer
from converters.errors import InvalidModel, describe
from converters.loading_errors import LOADING_ERRORS
from converters.sources.weights import Stored
from converters.verification.budget import Budget, check_seconds
from triton_models.contract.accuracy import LEAST_ALONE, cosines
from triton_models.contract.manifest import ImagePreprocessing

_CONFIG = "open_clip_config.json"
_REFERENCE_BATCH = 8
Rows = TypeVar("Rows", NDArray[np.int64], NDArray[np.uint8])


@dataclass(frozen=True)
class ClipReference:
    """A CLIP model loaded by open_clip.

    Attributes:
        model: The model in evaluation mode, float32.
        tokenizer: Tokenizer as the gateway will use it.
        preprocess: Preprocessing that open_clip applies to images.
        text_unit: Whether the text tower gives vectors of unit length (CoCa).
        image_unit: Whether the image tower gives vectors of unit length (CoCa).
    """

    model: Any
    tokenizer: ClipTokenizer
    preprocess: PreprocessCfg
    text_unit: bool
    image_unit: bool

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """The preprocessing that the gateway applies to a picture."""
        size = self.preprocess.size
        height, width = (size, size) if isinstance(size, int) else size
        mode, interpolation = self.preprocess.resize_mode, self.preprocess.interpolation
        # open_clip treats every value except "bilinear" as bicubic.
        return ImagePreprocessing(
            height=height,
            width=width,
            resize_mode=mode,
            interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
            fill_color=int(self.preprocess.fill_color),
        )

    def encode_texts(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return vectors, float32 [n, D], of ids, int64 [n, context length]."""
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.model.encode_text(torch.from_numpy(ids)).numpy()
        return vectors

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return vectors, float32 [n, D], of images, uint8 [n, H, W, 3], by open_clip's own transform."""
        transform = image_transform_v2(self.preprocess, is_train=False)
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.model.encode_image(pixels).numpy()
        return vectors

    def resized(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return a picture as open_clip's transform leaves it before scaling its values, uint8 [H, W, 3]."""
        plain = PreprocessCfg(**{**vars(self.preprocess), "mean": (0.0,) * 3, "std": (1.0,) * 3})
        pixels: Tensor = image_transform_v2(plain, is_train=False)(picture)
        scaled: NDArray[np.uint8] = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        return scaled


def encode(
    method: Callable[[Rows], NDArray[np.float32]],
    rows: Rows,
    always: int,
    report: Callable[[float, str], None],
) -> NDArray[np.float32]:
    """Return the reference's vectors of the first rows (ids or images): float32 [n, D].

    These are the first `always` rows, and as many more as CHECK_SECONDS allow. They are encoded in small
    batches, which are fast and take little memory.

    Raises:
        InvalidModel: A vector is not finite, or differs when it is computed again.
    """
    parts = []
    budget = Budget(check_seconds())
    for start in range(0, len(rows), _REFERENCE_BATCH):
        if start >= always and budget.is_over:
            break
        parts.append(method(rows[start : start + _REFERENCE_BATCH]))
        report(min(1.0, (start + _REFERENCE_BATCH) / len(rows)), "Embedding with the reference")
    vectors = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        raise InvalidModel("open_clip gives no finite vector for what the model is checked with")
    # torch does not accept arrays with negative strides.
    again = method(np.ascontiguousarray(rows[:_REFERENCE_BATCH][::-1]))[::-1]
    if cosines(again, vectors[: len(again)]).min() < LEAST_ALONE:
        raise InvalidModel("open_clip's vectors of this model depend on what it embedded before")
    return vectors


def weight_bytes(checkpoint: Path) -> int:
    """Return the size of a checkpoint's weights in float32, in bytes.

    Raises:
        InvalidModel: The file cannot be read, or not without running pickled code, or holds no weights.
    """
    try:
        if checkpoint.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(checkpoint, framework="pt") as file:
                return sum(4 * int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118 - no dict
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it does not write itself.
            warnings.simplefilter("ignore")
            state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=_is_zip(checkpoint))
    except pickle.UnpicklingError as error:
        raise InvalidModel(
            f"{checkpoint.name} holds more than weights: reading it would run pickled code, which is not "
            "done; save the state dict alone, or as safetensors"
        ) from error
    except LOADING_ERRORS as error:
        raise InvalidModel(
            f"{checkpoint.name} cannot be read: {describe(error, checkpoint.parent)}"
        ) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise InvalidModel(f"{checkpoint.name} holds no weights")
    return sum(4 * value.numel() for value in state.values() if isinstance(value, Tensor))


def load(found: ClipFound, scratch: Path) -> ClipReference:
    """Build the model of a source.

    Args:
        found: Parts of the model.
        scratch: An existing directory for the configuration that open_clip reads.

    Raises:
        InvalidModel: The model cannot be loaded or lacks weights.
    """
    home = scratch / "open_clip"
    home.mkdir()
    (home / _CONFIG).write_text(json.dumps({"model_cfg": found.config, "preprocess_cfg": found.preprocess}))
    for path in found.tokenizer_files:
        (home / path.name).symlink_to(path)
    # All sources are loaded as a local directory, for which open_clip reads nothing from elsewhere.
    name = f"local-dir:{home}"
    before = logging.root.manager.disable
    # open_clip warns that the model has no weights; the next step loads them.
    logging.disable(logging.WARNING)
    try:
        _check_size(name, found.checkpoint)
        model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
        open_clip.load_checkpoint(model, str(found.checkpoint), strict=True, weights_only=True)
        tokenizer = ClipTokenizer(open_clip.get_tokenizer(name))
    except LOADING_ERRORS as error:
        hidden = describe(error, home).replace(str(found.checkpoint.parent), "...")
        raise InvalidModel(f"open_clip cannot load the model: {hidden}") from error
    finally:
        logging.disable(before)
    model.eval().float()
    preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
    return ClipReference(model, tokenizer, preprocess, _unit(model.encode_text), _unit(model.encode_image))


def _check_size(name: str, checkpoint: Path) -> None:
    """Refuse a configuration with more weights than the checkpoint, before memory for them is allocated."""
    try:
        with torch.device("meta"):
            model: Any = open_clip.create_model(
                name, device="meta", load_weights=False, pretrained_text=False
            )
    except LOADING_ERRORS:
        # Not every tower can be built without memory. If it cannot be built at all, the next step fails.
        return
    claimed = sum(part.numel() for part in (*model.parameters(), *model.buffers()))
    elements = weight_bytes(checkpoint) // 4
    Stored(elements, 4 * elements, 0).refuse_beyond(claimed, "open_clip_config.json")


def _unit(method: Callable[..., Any]) -> bool:
    """Return whether a method of open_clip normalises by default."""
    return bool(inspect.signature(method).parameters["normalize"].default)


def _is_zip(path: Path) -> bool:
    """Return whether torch wrote the file in the format that can be read piece by piece."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"
