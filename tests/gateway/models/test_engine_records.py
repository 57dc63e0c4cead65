"""An engine that was recorded elsewhere, or long ago, and that fails the check here: measured anew, once."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.conftest import Server
from tests.support.converted_models import STATIC, Stock
from triton_models.contract.tokens import TOKEN_ID_BITS

LOAD = "/load_sentence_transformer_model"


def take_ids_by_modulus(path: Path) -> None:
    """Have the graph take the ids by Mod, which OpenVINO computes wrong above 2**24."""
    model = onnx.load(path)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(1 << TOKEN_ID_BITS, np.int64), "modulus"))
    [node] = [node for node in graph.node if node.op_type == "BitwiseAnd" and node.input[0] == "input_ids"][
        :1
    ]
    node.op_type = "Mod"
    node.input[1] = "modulus"
    onnx.save(model, path)


@pytest.fixture
def version(stock: Stock, tmp_path: Path) -> Path:
    """The version's directory of a model whose record names an engine that computes it wrong."""
    [served] = stock.put(tmp_path / "repository", STATIC)
    [record] = served.glob("*/engine.json")
    take_ids_by_modulus(record.parent / "model.onnx")
    record.write_text(json.dumps({**json.loads(record.read_text()), "engine": "openvino:fp32", "streams": 1}))
    return record.parent


def test_a_record_that_fails_the_check_is_measured_anew(version: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "repository", {}, tmp_path / "server.log")
    with server.running(), server.client() as client:
        answer = client.post(LOAD, json={"model_name": STATIC})
        assert answer.status_code == 200, answer.text
        text = client.post("/infer_text", json={"model_name": STATIC, "text": ["a b", "c"]})
        assert text.status_code == 200, text.text
    assert json.loads((version / "engine.json").read_text())["engine"] == "onnxruntime:fp32"
