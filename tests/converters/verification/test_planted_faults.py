"""Faults of real graphs that the shortest check must find: a race, a leak, another pooling or tokenizer."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sentence_transformers import SentenceTransformer

from converters.sentence_transformer import reference
from converters.sentence_transformer.samples import prepare
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.sources.inspection import inspect
from converters.verification.budget import SECONDS, Budget
from converters.verification.check import (
    LEAST_BATCHES,
    mixed_batches,
)
from converters.verification.samples import Samples
from tests.converters.conftest import Convert
from tests.converters.verification.test_check import LEAST, Ids, Lengths, Vectors, refused
from tests.support import tiny_tokenizers
from tests.support.tiny_models import transformer_model
from triton_models.backends.onnxruntime.engine import Engine


def racing(table: Vectors) -> onnx.ModelProto:
    """Return a graph that adds tokens up by ScatterND, for which ONNX Runtime's threads race."""
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("BitwiseAnd", ["input_ids", "mask"], "ids", {}),
        ("Gather", ["table", "ids"], "tokens", {}),
        ("Cast", ["item_shape"], "column", {"to": TensorProto.INT64}),
        ("Squeeze", ["column", "axis"], "lengths", {}),
        ("CumSum", ["lengths", "zero"], "ends", {}),
        ("Size", ["ids"], "total", {}),
        ("Range", ["zero", "total", "one"], "places", {}),
        ("Unsqueeze", ["places", "axis"], "place", {}),
        ("GreaterOrEqual", ["place", "ends"], "after", {}),
        ("Cast", ["after"], "counted", {"to": TensorProto.INT64}),
        ("ReduceSum", ["counted", "axis"], "row", {"keepdims": 1}),
        ("Shape", ["lengths"], "batch", {}),
        ("Concat", ["batch", "width"], "shape", {"axis": 0}),
        ("ConstantOfShape", ["shape"], "zeros", {}),
        ("ScatterND", ["zeros", "row", "tokens"], "sums", {"reduction": "add"}),
        ("Cast", ["item_shape"], "counts", {"to": TensorProto.FLOAT}),
        ("Div", ["sums", "counts"], "sentence_embedding", {}),
    ]
    constants = {"mask": 0xFFFFF, "axis": [1], "zero": 0, "one": 1, "width": [table.shape[1]]}
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], **options) for kind, given, made, options in nodes],
        "racing",
        [tensor("input_ids", TensorProto.INT64, ["t"]), tensor("item_shape", TensorProto.INT32, ["b", 1])],
        [tensor("sentence_embedding", TensorProto.FLOAT, ["b", table.shape[1]])],
        [
            numpy_helper.from_array(table, "table"),
            *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.slow
def test_a_racing_kernel_is_found(tmp_path: Path) -> None:
    # The kernel races only while both threads have a core, so busy cores hide it, here and in the check.
    generator = np.random.default_rng(0)
    table = generator.normal(size=(1000, 384)).astype(np.float32)
    onnx.save(racing(table), tmp_path / "model.onnx")
    lengths = [*generator.integers(1, 40, 250), *generator.integers(100, 512, 24)]
    ids = [generator.integers(0, 1000, length) for length in lengths]
    vectors = np.stack([table[row].mean(axis=0) for row in ids])
    samples = Samples([f"text {row}" for row in range(len(ids))], ids, vectors, None)
    engine = Engine(tmp_path / "model.onnx", 2)
    batches = itertools.islice(mixed_batches([len(row) for row in ids]), 200)
    raced = sum(
        not np.allclose(engine.run(*samples.batch(rows)), vectors[rows], atol=1e-3) for rows in batches
    )
    if raced < 20:
        pytest.skip(f"the kernel raced in {raced} of 200 batches; the cores are busy")
    assert [bool(refused(engine.run, samples, SECONDS)) for _ in range(20)] == [True] * 20


@pytest.fixture
def samples(sources: Path) -> Samples:
    path = transformer_model(sources / "right")
    loaded = reference.load(path, inspect(path, trust_remote_code=False), trust_remote_code=False)
    tokenizer = ReferenceTokenizer(loaded)
    return prepare(loaded, tokenizer, tiny_tokenizers.VOCAB, Budget(LEAST), lambda *_: None)


def with_other_token_types(path: Path) -> None:
    model = SentenceTransformer(str(transformer_model(path)), device="cpu")
    first: Any = model[0]
    types = first.model.embeddings.token_type_embeddings.weight.data
    types[[0, 1]] = types[[1, 0]]
    model.save(str(path), create_model_card=False)


@pytest.mark.parametrize(
    ("save", "fault"),
    [
        (lambda path: transformer_model(path), None),
        (lambda path: transformer_model(path, pooling="cls"), "differs from the reference"),
        (with_other_token_types, "differs from the reference"),
    ],
    ids=["right", "wrong pooling", "wrong token type"],
)
def test_a_graph_that_is_another_is_found(
    save: Callable[[Path], object], fault: str | None, sources: Path, samples: Samples, convert: Convert
) -> None:
    save(sources / "converted")
    reason = refused(convert("converted").engine.run, samples, LEAST)
    assert reason is None if fault is None else fault in str(reason)


def test_a_tokenizer_of_another_model_is_found(samples: Samples, convert: Convert) -> None:
    other = tiny_tokenizers.byte_level()
    ids = [
        np.array(other(text).input_ids[: row.size] or [0])
        for text, row in zip(samples.texts, samples.ids, strict=True)
    ]
    assert "differs from the reference" in str(
        refused(convert("right").engine.run, replace(samples, ids=ids), LEAST)
    )


def test_a_row_that_leaks_into_its_neighbour_is_found(samples: Samples, convert: Convert) -> None:
    engine = convert("right").engine
    for batch in range(1, LEAST_BATCHES + 1):
        seen = 0

        def run(ids: Ids, lengths: Lengths, batch: int = batch) -> Vectors:
            nonlocal seen
            seen += lengths.size > 1
            if lengths.size > 1 and seen == batch:
                starts = np.cumsum(lengths) - lengths
                ids = ids.copy()
                ids[starts[1] - 1] = ids[starts[1]]
            return engine.run(ids, lengths)

        assert "reference" in str(refused(run, samples, LEAST)), batch
