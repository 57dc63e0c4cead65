"""An image tower in the contract, made by hand: the mean colour of an image, turned by a matrix."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.tiny_repository import manifest
from triton_models.contract.config import model_config, to_text
from triton_models.contract.manifest import ImagePreprocessing, Manifest
from triton_models.repository.repository import CONFIG, MANIFEST, MODEL, Repository

HEIGHT, WIDTH, DIMENSIONS = 4, 6, 8


def matrix(seed: int) -> NDArray[np.float32]:
    """float32 [3, DIMENSIONS]."""
    return np.random.default_rng(seed).standard_normal((3, DIMENSIONS)).astype(np.float32)


def expected(seed: int, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the model answers for uint8 [b, HEIGHT, WIDTH, 3]."""
    vectors: NDArray[np.float32] = images.astype(np.float32).mean(axis=(1, 2)) @ matrix(seed)
    return vectors


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def write_model(path: Path, seed: int) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "matrix"], ["image_embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("image_embedding", TensorProto.FLOAT, ["batch", DIMENSIONS])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(matrix(seed), "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def install(repository: Repository, triton_name: str, seed: int) -> Manifest:
    """Build the tower and put it into the repository."""
    with repository.staging(triton_name) as staged:
        write_model(staged / MODEL, seed)
        recorded = manifest(
            triton_name,
            (staged / MODEL).read_bytes(),
            tower="image",
            image=ImagePreprocessing(HEIGHT, WIDTH, "shortest", "bicubic"),
        )
        version = staged / str(recorded.version)
        version.mkdir()
        (staged / MODEL).rename(version / MODEL)
        (version / MANIFEST).write_text(recorded.to_json())
        (staged / CONFIG).write_text(to_text(model_config(triton_name, recorded)))
        repository.install(staged, triton_name)
    return recorded
