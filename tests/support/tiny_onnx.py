"""A text model in the contract, made by hand: a table of vectors and their mean over each row."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from triton_models.contract.tokens import TOKEN_ID_BITS, token_ids

VOCAB_SIZE = 100
DIMENSIONS = 8


def table(seed: int) -> NDArray[np.float32]:
    """The vectors, float32 [VOCAB_SIZE, DIMENSIONS]."""
    return np.random.default_rng(seed).standard_normal((VOCAB_SIZE, DIMENSIONS)).astype(np.float32)


def expected(seed: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the model answers for rows int64 [b, L]: float32 [b, DIMENSIONS]."""
    mean: NDArray[np.float32] = table(seed)[token_ids(rows)].mean(axis=1, dtype=np.float32)
    return mean


def write_model(path: Path, seed: int, *, work: int = 0, tokens: bool = False) -> None:
    """Write `model.onnx`.

    work: size of a square product computed in vain, to make a run take time. tokens: it gives them too.
    """
    constants: dict[str, NDArray[Any]] = {
        "mask": np.array(2**TOKEN_ID_BITS - 1, np.int64),
        "table": table(seed),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "column": np.array([-1, 1], np.int64),
        "row": np.array([1, -1], np.int64),
        "flat": np.array([-1], np.int64),
        "axis1": np.array([1], np.int64),
    }
    nodes = [
        _node("BitwiseAnd", "input_ids mask", "ids"),
        _node("Gather", "table ids", "vectors", axis=0),
        _node("Cast", "item_shape", "lengths", to=TensorProto.INT64),
        _node("Reshape", "lengths flat", "flat_lengths"),
        _node("CumSum", "flat_lengths zero", "ends"),
        _node("Sub", "ends flat_lengths", "starts"),
        _node("Reshape", "starts column", "start_column"),
        _node("ReduceMax", "flat_lengths", "longest", keepdims=0),
        _node("Range", "zero longest one", "positions"),
        _node("Reshape", "positions row", "position_row"),
        _node("Less", "position_row lengths", "present"),
        _node("Sub", "lengths one", "last"),
        _node("Min", "position_row last", "clipped"),
        _node("Add", "clipped start_column", "source"),
        _node("Gather", "vectors source", "padded", axis=0),
        _node("Cast", "present", "weights", to=TensorProto.FLOAT),
        _node("Unsqueeze", "weights minus_one", "weight_column"),
        _node("Mul", "padded weight_column", "weighted"),
        _node("ReduceSum", "weighted axis1", "sums", keepdims=0),
        _node("Cast", "lengths", "counts", to=TensorProto.FLOAT),
        _node("Div", "sums counts", "means"),
    ]
    constants["minus_one"] = np.array([-1], np.int64)
    if work:
        nodes += _vain_work(constants, work)
    else:
        nodes.append(_node("Identity", "means", "sentence_embedding"))
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", DIMENSIONS])]
    if tokens:
        nodes.append(_node("Identity", "vectors", "token_embeddings"))
        # The first one: whoever takes outputs by their place takes the wrong one.
        outputs.insert(
            0, helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["tokens", DIMENSIONS])
        )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["tokens"]),
            helper.make_tensor_value_info("item_shape", TensorProto.INT32, ["batch", 1]),
        ],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _vain_work(constants: dict[str, NDArray[Any]], size: int) -> list[onnx.NodeProto]:
    """Add `0 * something` to every vector, where something depends on the input."""
    constants["square"] = np.ones((size, size), np.float32)
    constants["nothing"] = np.array(0, np.float32)
    constants["every"] = np.array([0, 1], np.int64)
    return [
        _node("ReduceMean", "means every", "level", keepdims=0),
        _node("Mul", "square level", "leveled"),
        _node("MatMul", "leveled square", "product"),
        _node("ReduceMean", "product every", "total", keepdims=0),
        _node("Mul", "total nothing", "none"),
        _node("Add", "means none", "sentence_embedding"),
    ]


def _node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401 - any kind that ONNX has
    return helper.make_node(operator, inputs.split(), [output], **attributes)
