"""The models of the backend: a text model, or the image tower of a CLIP model.

Each checks the requests that Triton passes on and computes all valid ones at once. Torch is imported only for
its engine.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from triton_models.backends.onnxruntime import engine_selection, gpu_selection, image_engine_selection
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.engine_selection import Measurement, Selection, engine_for
from triton_models.backends.onnxruntime.gpu_selection import gpu_engine_for
from triton_models.backends.onnxruntime.image_engine import ImageEngine
from triton_models.backends.onnxruntime.image_engine_selection import image_engine_for
from triton_models.backends.onnxruntime.sample import Sample
from triton_models.backends.onnxruntime.sessions import CPU, EngineName, fixed_engine
from triton_models.contract.accuracy import BOUNDS, Bounds
from triton_models.contract.checks import ImageCheck
from triton_models.contract.tokens import WANTS_TOKENS, token_ids

Run = Callable[[Sequence[NDArray[Any]]], list[NDArray[np.float32]]]
"""A function from the inputs of requests to their answers, in the same order."""


Chosen = TypeVar("Chosen")
Opened = TypeVar("Opened")

log = logging.getLogger(__name__)


class Tower(Protocol):
    """One open model.

    Attributes:
        name: Name of the engine, for the log.
    """

    name: str

    def problem(self, rows: NDArray[Any]) -> str | None:
        """Return why one request's input cannot be computed, or None if it can."""

    def run_of(self, rows: NDArray[Any]) -> Run:
        """Return the function for a request; requests with the same function are computed at once."""


def open_tower(config: dict[str, Any], directory: Path, threads: int, device: str) -> Tower:
    """Open the model in `directory` on a device, by the configuration that Triton passes."""
    inputs = config["input"][0]
    if inputs["data_type"] == "TYPE_UINT8":
        shape = [int(size) for size in inputs["dims"]]
        return ImageTower(directory, threads, inputs["name"], shape, device)
    return TextTower(directory, threads, inputs["name"], device)


def opened(
    choose: Callable[[bool], Chosen],
    open_: Callable[[Chosen], Opened],
    is_right: Callable[[Opened], bool],
) -> tuple[Chosen, Opened]:
    """Choose an engine and open the model; if that fails or the vectors are wrong, measure once more.

    Wrong vectors must not be returned even to a check, because Triton would cache them for the next engine.
    The engine that ENGINE fixes is used whatever it computes.

    Args:
        choose: Returns the choice; its argument says whether to measure again, as `anew` of `engine_for`.
        open_: Opens the model with a choice.
        is_right: Returns whether the open model agrees with the reference.

    Returns:
        The choice and the open model.

    Raises:
        RuntimeError, ImportError: The newly measured engine cannot run the model.
    """
    chosen = choose(False)
    try:
        model = open_(chosen)
        if fixed_engine() is not None or is_right(model):
            return chosen, model
        log.warning("the engine of this model differs from the reference, all are measured anew")
    except (RuntimeError, ImportError) as error:
        log.warning("the engine of this model does not run it, all are measured anew: %s", error)
    chosen = choose(True)
    return chosen, open_(chosen)


class TextTower:
    """A text model; requests are int64 [b, L], each with its own b and L."""

    def __init__(self, directory: Path, threads: int, input_name: str, device: str = CPU) -> None:
        record = _record(directory)
        path = directory / "model.onnx"
        # Weights in fp16 are for a GPU; on a CPU there is no engine to choose for them.
        measured = device != CPU or record.get("precision") != "fp16"
        sample = Sample.of(directory)

        def measure(name: EngineName) -> Measurement:
            assert sample is not None
            return engine_selection.measure(path, sample, threads, name, 1, device)

        def choose(anew: bool) -> Selection:
            if gpu_selection.applies(device):
                return gpu_engine_for(directory, threads, device, measure if sample else None, anew=anew)
            return engine_for(directory, threads, measured=measured, anew=anew)

        chosen, self._engine = opened(
            choose,
            lambda chosen: Engine(path, threads, chosen.name, chosen.streams, device),
            lambda engine: not measured or engine_selection.is_right(engine, directory),
        )
        self.name = f"{chosen.engine} in {chosen.streams} streams"
        self._input = input_name
        self._vocab_size = record.get("vocab_size")
        self._planted_id = record.get("planted_id")
        self._has_tokens = record.get("token_dimensions") is not None

    def problem(self, rows: NDArray[Any]) -> str | None:
        """As `Tower.problem`."""
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.size == 0:
            return f"{self._input} must be INT64 of shape [rows, tokens], at least one of each"
        ids = token_ids(rows)
        unknown = rows.min() < 0 or (self._vocab_size is not None and ids.max() >= self._vocab_size)
        if unknown and not self._is_check(rows, ids):
            return f"{self._input} holds a token id outside the vocabulary"
        if rows[0, 0] & WANTS_TOKENS and not self._has_tokens:
            return "the model was converted without vectors of tokens"
        return None

    def _is_check(self, rows: NDArray[Any], ids: NDArray[Any]) -> bool:
        """True if the unknown ids are rows of the planted id alone, as a check sends; see `Manifest`."""
        others = ids[~(ids == self._planted_id).all(axis=1)]
        return bool(rows.min() >= 0 and (others < self._vocab_size).all())

    def run_of(self, rows: NDArray[Any]) -> Run:
        """As `Tower.run_of`."""
        return self.run_tokens if rows[0, 0] & WANTS_TOKENS else self.run

    def run(self, requests: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return one vector for each row: float32 [b, D] for each request."""
        return _parts(self._engine.run(*_flat(requests)), [rows.shape[0] for rows in requests])

    def run_tokens(self, requests: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return one vector for each token: float32 [b, L, H] for each request."""
        parts = _parts(self._engine.run_tokens(*_flat(requests)), [rows.size for rows in requests])
        return [part.reshape(*rows.shape, -1) for part, rows in zip(parts, requests, strict=True)]


class ImageTower:
    """The image tower of a CLIP model; requests are uint8 [b, H, W, 3], each with its own b."""

    def __init__(
        self, directory: Path, threads: int, input_name: str, shape: list[int], device: str = CPU
    ) -> None:
        path, check, bounds = directory / "model.onnx", directory / "check.npz", _bounds(_record(directory))

        def measure(name: EngineName) -> Measurement:
            sample = ImageCheck.read(check.read_bytes())
            return image_engine_selection.measure(path, sample, threads, name, device, bounds)

        def choose(anew: bool) -> EngineName:
            if gpu_selection.applies(device):
                known = measure if check.is_file() else None
                return gpu_engine_for(directory, threads, device, known, anew=anew).name
            return image_engine_for(directory, threads, anew=anew)

        engine, self._engine = opened(
            choose,
            lambda name: ImageEngine(path, threads, name, device),
            lambda model: image_engine_selection.is_right(model, directory, bounds),
        )
        self.name = str(engine)
        self._input = input_name
        self._shape = tuple(shape)

    def problem(self, rows: NDArray[Any]) -> str | None:
        """As `Tower.problem`."""
        if rows.dtype != np.uint8 or rows.ndim != 4 or rows.shape[1:] != self._shape or rows.size == 0:
            return f"{self._input} must be UINT8 of shape [images, {', '.join(map(str, self._shape))}]"
        return None

    def run_of(self, rows: NDArray[Any]) -> Run:
        """As `Tower.run_of`; all requests have the same function."""
        del rows
        return self.run

    def run(self, requests: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return one vector for each image: float32 [b, D] for each request."""
        images = requests[0] if len(requests) == 1 else np.concatenate(requests)
        return _parts(self._engine.run(images), [rows.shape[0] for rows in requests])


def _flat(requests: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return all ids one after another, int64 [total], and the length of each row, int32 [batch]."""
    input_ids = np.concatenate([rows.reshape(-1) for rows in requests])
    lengths = np.concatenate([np.full(rows.shape[0], rows.shape[1], np.int32) for rows in requests])
    return input_ids, lengths


def _parts(vectors: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    """Cut the vectors into parts of these sizes."""
    parts, start = [], 0
    for size in sizes:
        parts.append(vectors[start : start + size])
        start += size
    return parts


def _bounds(record: dict[str, Any]) -> Bounds:
    return BOUNDS[record.get("precision", "fp32")]


def _record(directory: Path) -> dict[str, Any]:
    """Return `model.json` beside the model; if there is none, {}, and the range of ids is not checked."""
    try:
        record: dict[str, Any] = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return record
