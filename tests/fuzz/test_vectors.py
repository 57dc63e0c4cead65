"""Forms of any vectors, and whatever Triton might answer."""

from typing import Literal

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sentence_transformers.util import quantize_embeddings
from tritonclient.grpc import service_pb2

from gateway.api.responses import JSON, NPY, OCTETS, EncodingFormat, OutputFormat, encode
from gateway.errors import InvalidInput
from gateway.inference.vectors import EmbeddingDtype, quantize, unit_length
from tests.fuzz.mutations import one_line
from triton_models.client.errors import TritonError
from triton_models.client.requests import embeddings

Floats = NDArray[np.float32]
Precision = Literal["int8", "uint8", "binary", "ubinary"]

VALUES = st.floats(-1e6, 1e6, width=32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vectors(values: st.SearchStrategy[float] = VALUES, least: int = 2) -> st.SearchStrategy[Floats]:
    shapes = st.tuples(st.integers(least, 5), st.integers(1, 20))
    return shapes.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=values))


@given(vectors(), st.sampled_from(("int8", "uint8", "binary", "ubinary")), st.booleans())
def test_small_types_are_the_librarys(rows: Floats, dtype: Precision, given_ranges: bool) -> None:
    ranges = np.sort(rows[:2] * np.float32(0.5), axis=0) if given_ranges else None
    expected = quantize_embeddings(rows, dtype, ranges=ranges)
    made = quantize(rows, dtype, ranges)
    assert made.dtype == np.asarray(expected).dtype
    assert np.array_equal(made, expected)


@given(
    vectors(FINITE, least=1),
    st.integers(-1, 22),
    st.sampled_from(("float32", "float16", "int8", "uint8", "binary", "ubinary")),
    st.sampled_from(("float", "base64")),
    st.sampled_from((JSON, NPY, OCTETS)),
)
def test_any_vectors_take_any_form(
    rows: Floats, dimensions: int, dtype: EmbeddingDtype, encoding: EncodingFormat, media: str
) -> None:
    try:
        answer = encode(0.0, OutputFormat(dimensions or None, dtype, encoding), media, {"embedding": rows})
    except InvalidInput as error:
        one_line(error)
    else:
        assert b"NaN" not in answer.body
        assert answer.body


@given(vectors(FINITE, least=1))
def test_unit_length_or_zero(rows: Floats) -> None:
    lengths = np.linalg.norm(unit_length(rows).astype(np.float64), axis=1)
    there = np.abs(rows).max(axis=1) > 0
    assert np.allclose(lengths[there], 1, atol=1e-5)
    assert not lengths[~there].any()


def responses() -> st.SearchStrategy[bytes]:
    sizes = st.lists(st.sampled_from((-1, 0, 1, 2, 3, 4, 2**31, 2**62)) | st.integers(0, 9), max_size=4)
    outputs = st.lists(sizes, max_size=2)
    contents = st.lists(st.binary(max_size=64), max_size=2)

    def made(shapes: list[list[int]], raw: list[bytes]) -> bytes:
        response = service_pb2.ModelInferResponse(raw_output_contents=raw)
        for shape in shapes:
            response.outputs.add(name="sentence_embedding", datatype="FP32", shape=shape)
        return bytes(response.SerializeToString())

    return st.builds(made, outputs, contents)


@given(responses(), st.lists(st.integers(1, 4), min_size=1, max_size=2))
@example(service_pb2.ModelInferResponse(raw_output_contents=[b"1234"]).SerializeToString(), [1])
def test_any_answer_of_tritons_is_vectors_or_an_error(content: bytes, leading: list[int]) -> None:
    try:
        found = embeddings(service_pb2.ModelInferResponse.FromString(content), *leading)
    except TritonError as error:
        one_line(error)
    else:
        assert found is None or found.shape[:-1] == tuple(leading)
