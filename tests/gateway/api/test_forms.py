"""Fewer dimensions, smaller numbers, bytes: by the rules of the libraries, and over HTTP."""

import base64
import io
from typing import Any, Literal, get_args

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers.util import quantize_embeddings, truncate_embeddings

from gateway.api.responses import JSON, NPY, OCTETS, media_type
from gateway.api.schemas import IMAGE_EXAMPLE
from gateway.errors import InvalidInput
from gateway.inference import vectors as forms
from gateway.inference.vectors import EmbeddingDtype
from tests.conftest import MINILM
from tests.gateway.api.test_infer import sentences
from tests.support.converted_models import CLIP

D = 384
DTYPES = get_args(EmbeddingDtype)
TEXTS = sentences(20, seed=11, most=8)
RANGES = [[-0.2] * D, [0.15] * D]
FIELD = {"/infer": "text_embeddings", "/infer_text": "embedding"}

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """Of unit length, with values on both sides of 0, some of them 0, and a constant column."""
    made = np.random.default_rng(3).normal(size=(50, 21)).astype(np.float32)
    made[::5, 3] = 0
    made[:, 7] = 0.25
    return forms.unit_length(made)


@pytest.fixture(scope="module")
def plain(server: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """The vectors of TEXTS."""
    with server.client() as client:
        answer = client.post("/infer_text", json={"model_name": MINILM, "text": TEXTS})
        return np.array(answer.json()["embedding"], dtype=np.float32)


def post(client: httpx.Client, path: str = "/infer_text", accept: str = "*/*", **body: Any) -> httpx.Response:  # noqa: ANN401
    fields = {"model_name": MINILM, "text": TEXTS, **body}
    return client.post(path, json=fields, headers={"Accept": accept})


def refused(client: httpx.Client, accept: str = "*/*", **body: Any) -> str:  # noqa: ANN401
    answer = post(client, "/infer", accept, **body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == JSON
    detail: str = answer.json()["detail"]
    return detail


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("given", [True, False])
def test_quantised_as_the_library_does_it(
    vectors: NDArray[np.float32], precision: Precision, given: bool
) -> None:
    # Ranges that cut off some values, and one that is a point.
    ranges = np.vstack((np.full(21, -0.1), np.full(21, 0.3))).astype(np.float32)
    ranges[:, 4] = 0.1
    expected = np.asarray(quantize_embeddings(vectors, precision, ranges=ranges if given else None))
    made = forms.quantize(vectors, precision, ranges if given else None)
    assert made.dtype == expected.dtype
    assert np.array_equal(made, expected)


def test_half_precision_is_numpys(vectors: NDArray[np.float32]) -> None:
    assert np.array_equal(forms.quantize(vectors, "float16"), vectors.astype(np.float16))
    with pytest.raises(InvalidInput, match=r"^embedding_dtype: a value is too large for float16"):
        forms.quantize(vectors * 1e6, "float16")


def test_cut_is_the_librarys_and_of_unit_length(vectors: NDArray[np.float32]) -> None:
    for dimensions in (1, 8, 21):
        made = forms.cut(vectors, dimensions)
        expected = truncate_embeddings(vectors, dimensions)
        assert np.allclose(made, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
        assert made.flags.c_contiguous
    for dimensions in (0, -1, 22):
        with pytest.raises(InvalidInput, match=rf"^dimensions: {dimensions}; the model's vectors have 21$"):
            forms.cut(vectors, dimensions)


def test_bytes_are_little_endian() -> None:
    rows = np.array([[1.0, -2.0]], dtype=">f4")
    assert forms.little_endian(rows).tobytes() == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert base64.b64decode(forms.base64_rows(rows)[0]) == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert np.load(io.BytesIO(forms.npy(rows))).tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html, application/json;q=0.9", JSON),
        (OCTETS, OCTETS),
        ("Application/X-NPY", NPY),
        (f"{OCTETS}, */*", OCTETS),
        (f"{OCTETS}, {JSON}", JSON),
        (f"{OCTETS}, {JSON};q=0.5", OCTETS),
        (f"{OCTETS};q=0.4, {JSON};q=0.5", JSON),
        (f"{OCTETS};q=0.4, {NPY}; q=0.5", NPY),
        (f"{OCTETS};q=0", JSON),
        (f"{OCTETS};q=x", OCTETS),
    ],
)
def test_what_a_caller_accepts(accept: str, media: str) -> None:
    assert media_type(accept) == media


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", FIELD)
def test_every_type_is_the_same_by_every_way(
    client: httpx.Client, plain: NDArray[np.float32], path: str, dtype: EmbeddingDtype
) -> None:
    ranges = np.array(RANGES, np.float32)
    expected = forms.quantize(plain, dtype, ranges)
    body: dict[str, Any] = {"embedding_dtype": dtype}
    if dtype in ("int8", "uint8"):
        body["ranges"] = RANGES
    answer = post(client, path, **body).json()
    assert np.array_equal(np.array(answer[FIELD[path]], expected.dtype), expected)
    assert "ranges" not in answer
    encoded = post(client, path, encoding_format="base64", **body).json()[FIELD[path]]
    for row, text in zip(expected, encoded, strict=True):
        assert base64.b64decode(text) == row.tobytes()
    octets = post(client, path, OCTETS, **body)
    assert octets.headers["content-type"] == OCTETS
    assert octets.headers["x-embedding-shape"] == f"{expected.shape[0]},{expected.shape[1]}"
    assert np.array_equal(
        np.frombuffer(octets.content, octets.headers["x-embedding-dtype"]).reshape(expected.shape), expected
    )
    file = post(client, path, NPY, **body)
    assert file.headers["content-type"] == NPY
    loaded = np.load(io.BytesIO(file.content), allow_pickle=False)
    assert loaded.dtype == expected.dtype
    assert np.array_equal(loaded, expected)


def test_fewer_dimensions_are_of_unit_length_and_quantised_after(
    client: httpx.Client, plain: NDArray[np.float32]
) -> None:
    cut = forms.cut(plain, 100)
    assert np.allclose(post(client, dimensions=100).json()["embedding"], cut, atol=1e-7)
    assert np.allclose(post(client, dimensions=D).json()["embedding"], plain, atol=1e-6)
    made = post(client, dimensions=100, embedding_dtype="ubinary").json()["embedding"]
    assert np.array_equal(made, quantize_embeddings(cut, "ubinary"))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_ranges_are_taken_from_the_inputs_and_given_back(
    client: httpx.Client, plain: NDArray[np.float32], dtype: Precision
) -> None:
    answer = post(client, "/infer", embedding_dtype=dtype, dimensions=64).json()
    cut = forms.cut(plain, 64)
    expected = quantize_embeddings(cut, dtype)
    assert np.array_equal(answer["text_embeddings"], expected)
    assert np.allclose(answer["ranges"], [cut.min(axis=0), cut.max(axis=0)], atol=1e-7)
    again = post(
        client, "/infer", embedding_dtype=dtype, dimensions=64, ranges=answer["ranges"], text=TEXTS[3]
    )
    assert np.array_equal(again.json()["text_embeddings"][0], expected[3])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dimensions": D + 1}, f"dimensions: {D + 1}; the model's vectors have {D}"),
        ({"dimensions": 0}, "dimensions: "),
        ({"dimensions": "some"}, "dimensions: "),
        ({"encoding_format": "hex"}, "encoding_format: "),
        ({"embedding_dtype": "int4"}, "embedding_dtype: "),
        ({"embedding_dtype": "int8", "text": "one"}, "embedding_dtype: int8 and uint8 need ranges"),
        ({"ranges": RANGES}, "ranges: only for embedding_dtype int8 and uint8"),
        ({"ranges": [[0.0]], "embedding_dtype": "int8"}, "ranges: "),
        ({"ranges": [[0.0], [1.0]], "embedding_dtype": "int8"}, f"ranges: 2 lists of {D} numbers"),
        (
            {"ranges": [[0.0], [1.0, 2.0]], "embedding_dtype": "int8"},
            "ranges: two lists of equal length are needed",
        ),
        (
            {"ranges": RANGES[::-1], "embedding_dtype": "uint8"},
            "ranges: two lists of equal length are needed",
        ),
        ({"ranges": [[0.0], [1e300]], "embedding_dtype": "uint8"}, "ranges: a value is too large"),
    ],
    ids=str,
)
def test_a_form_that_does_not_fit_is_refused(
    client: httpx.Client, body: dict[str, Any], message: str
) -> None:
    detail = refused(client, **body)
    assert detail.startswith(message)
    assert refused(client, OCTETS, **body) == detail


def test_bytes_are_of_one_kind_of_input(client: httpx.Client) -> None:
    detail = refused(client, OCTETS, image="https://example.com/a.png")
    assert detail == (
        "Accept: application/octet-stream carries vectors of text or of image; ask for one of them, or for "
        "application/json"
    )


def test_texts_and_images_share_the_ranges_that_are_taken_from_them(api: httpx.Client) -> None:
    body = {"model_name": CLIP, "text": ["a dog", "a cat"], "image": IMAGE_EXAMPLE}
    plain = api.post("/infer", json=body).json()
    rows = [np.array(plain[field], np.float32) for field in ("text_embeddings", "image_embeddings")]
    answer = api.post("/infer", json={**body, "embedding_dtype": "uint8"}).json()
    both = np.concatenate(rows)
    assert np.allclose(answer["ranges"], [both.min(axis=0), both.max(axis=0)], rtol=1e-6)
    made = [*answer["text_embeddings"], *answer["image_embeddings"]]
    assert np.array_equal(made, quantize_embeddings(both, "uint8"))


def test_images_have_the_same_forms(api: httpx.Client) -> None:
    body = {"model_name": CLIP, "image": [IMAGE_EXAMPLE, IMAGE_EXAMPLE]}
    plain = np.array(api.post("/infer_image", json=body).json()["embedding"], np.float32)
    headers = {"Accept": OCTETS}
    answer = api.post("/infer_image", json={**body, "dimensions": 5}, headers=headers)
    assert answer.headers["x-embedding-shape"] == "2,5"
    rows = np.frombuffer(answer.content, "<f4").reshape(2, 5)
    assert np.allclose(rows, forms.cut(plain, 5), atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_ranges_wider_than_float32_reaches_keep_their_steps(dtype: Literal["int8", "uint8"]) -> None:
    column = np.array([-3.4e38, -1.7e38, 0.0, 1.7e38, 3.4e38], np.float32)
    rows = forms.quantize(np.stack([column, np.arange(5, dtype=np.float32)], axis=1), dtype)
    expected = np.array([[0, 0], [63, 63], [127, 127], [191, 191], [255, 255]])
    # The last step is rounded down, as the library does it too.
    np.testing.assert_allclose(rows.astype(int), expected - 128 if dtype == "int8" else expected, atol=1)
    given = np.array([[-1.0, -1.0], [1.0, 1.0]], np.float32)
    clipped = forms.quantize(np.array([[3.4e38, -3.4e38]], np.float32), dtype, given)
    np.testing.assert_array_equal(clipped, [[127, -128]] if dtype == "int8" else [[255, 0]])
