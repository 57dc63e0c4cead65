"""`--precision fp16`: halves inside, the reference's vectors outside, within the bound for halves."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from sentence_transformers import SentenceTransformer

from converters.errors import CheckFailed
from converters.job import Request
from converters.sentence_transformer.pipeline import run
from tests.converters.conftest import Steps
from tests.support.tiny_models import transformer_model
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.contract.accuracy import BOUNDS, Bounds, cosines
from triton_models.repository.repository import Repository

TEXTS = ["a dog", "a diver under the ice", "one two three four five six seven", ""]


def request(directory: Path) -> Request:
    return Request(
        "half", directory / "repository", None, [directory / "sources"], False, 2, False, precision="fp16"
    )


def test_the_weights_are_halves_and_the_vectors_are_floats(tmp_path: Path, sources: Path) -> None:
    transformer_model(sources / "half")
    ((served, manifest),) = run(request(tmp_path), Steps()).items()
    directory = Repository(tmp_path / "repository").version_dir(served)
    graph = onnx.load(directory / "model.onnx").graph
    types = {weight.data_type for weight in graph.initializer if np.prod(weight.dims) > 64}
    assert onnx.TensorProto.FLOAT16 in types
    assert onnx.TensorProto.FLOAT not in types
    assert {output.type.tensor_type.elem_type for output in graph.output} == {onnx.TensorProto.FLOAT}
    assert manifest.precision == "fp16"
    assert 0.999 <= manifest.check["min_cosine"] < 1

    reference = SentenceTransformer(str(sources / "half"), device="cpu")
    ids = [np.array(reference.tokenizer(text)["input_ids"]) for text in TEXTS]
    lengths = np.array([row.size for row in ids], np.int32)
    engine = Engine(directory / "model.onnx", 2)
    vectors = engine.run(np.concatenate(ids), lengths)
    assert cosines(vectors, reference.encode(TEXTS)).min() >= 0.999
    tokens = reference.encode(TEXTS, output_value="token_embeddings")
    expected = np.concatenate([np.asarray(rows) for rows in tokens])
    assert cosines(engine.run_tokens(np.concatenate(ids), lengths), expected).min() >= 0.999


def test_halves_that_do_not_keep_to_the_reference_are_refused(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer_model(sources / "half")
    monkeypatch.setitem(BOUNDS, "fp16", Bounds(1 - 1e-12, 1 - 1e-12))
    with pytest.raises(CheckFailed, match="cosine"):
        run(request(tmp_path), Steps())
    assert Repository(tmp_path / "repository").triton_names() == []
