"""The answers of the embedding routes: vectors in the requested output format, as JSON or as bytes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from gateway.errors import InvalidInput
from gateway.inference.vectors import (
    EmbeddingDtype,
    Rows,
    Vectors,
    base64_rows,
    calibrate,
    cut,
    little_endian,
    npy,
    quantize,
)

JSON = "application/json"
OCTETS = "application/octet-stream"
NPY = "application/x-npy"

SHAPE_HEADER = "x-embedding-shape"
DTYPE_HEADER = "x-embedding-dtype"

EncodingFormat = Literal["float", "base64"]


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The output format of vectors; see `gateway/inference/vectors.py`.

    Attributes:
        dimensions: number of leading columns to keep; None for all.
        dtype: the type of the numbers.
        encoding_format: numbers or base64, in JSON.
        ranges: float32 [2, D], the least and the largest value of each column, for int8 and uint8. None to
            take them from the vectors of the request.
    """

    dimensions: int | None = None
    dtype: EmbeddingDtype = "float32"
    encoding_format: EncodingFormat = "float"
    ranges: NDArray[np.float32] | None = None

    @property
    def calibrates(self) -> bool:
        """True if the ranges come from the vectors of the request."""
        return self.ranges is None and self.dtype in ("int8", "uint8")


PLAIN = OutputFormat()
"""The default format: vectors as the model gives them, as numbers."""


class Answer(NamedTuple):
    """An encoded body and its headers in ASGI's form, without Content-Length."""

    body: bytes
    headers: list[tuple[bytes, bytes]]


PLAIN_JSON = [(b"content-type", JSON.encode())]


def media_type(accept: str) -> str:
    """Return the media type for an `Accept` header: a binary one if it is preferred to JSON, else JSON."""
    accept = accept.lower()
    if OCTETS not in accept and NPY not in accept:
        return JSON
    quality: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = [piece.strip() for piece in part.split(";")]
        quality[name] = _quality(parameters)
    best = max((OCTETS, NPY), key=lambda name: quality.get(name, 0.0))
    return best if quality.get(best, 0.0) > quality.get(JSON, 0.0) else JSON


def require_json(media: str) -> None:
    """Refuse a binary answer to a request with texts and images, before anything is embedded.

    Raises:
        InvalidInput: `media` is not JSON.
    """
    if media != JSON:
        raise InvalidInput(
            f"Accept: {media} carries vectors of text or of image; ask for one of them, or for {JSON}"
        )


def encode(start: float, form: OutputFormat, media: str, vectors: dict[str, Vectors | None]) -> Answer:
    """Encode the answer of an embedding route.

    Args:
        start: when the request arrived, in seconds of `time.perf_counter`.
        form: the output format.
        media: the media type of the answer.
        vectors: float32 [n, D] by field of the JSON. For a binary answer, only one of them is not None.

    Raises:
        InvalidInput: the format does not fit the vectors.
    """
    fields: dict[str, Any] = vectors
    if form is not PLAIN:
        fields = shaped(form, vectors)
    if media != JSON:
        return _bytes(next(rows for rows in fields.values() if rows is not None), media)
    if form.encoding_format == "base64":
        fields = {
            name: base64_rows(rows) if name in vectors and rows is not None else rows
            for name, rows in fields.items()
        }
    fields["processingTimeMs"] = (time.perf_counter() - start) * 1000
    # orjson writes arrays directly, without making lists of them.
    return Answer(orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY), PLAIN_JSON)


def shaped(form: OutputFormat, vectors: dict[str, Vectors | None]) -> dict[str, Rows | None]:
    """Cut and quantise vectors; add `ranges`, float32 [2, D], if they were taken from the vectors.

    Raises:
        InvalidInput: the format does not fit the vectors.
    """
    there = {name: rows for name, rows in vectors.items() if rows is not None}
    if form.dimensions is not None:
        there = {name: cut(rows, form.dimensions) for name, rows in there.items()}
    ranges = form.ranges
    if form.calibrates:
        # Texts and images share their ranges, so that they can be compared with each other.
        ranges = calibrate(np.concatenate(list(there.values())))
    quantized = {name: quantize(rows, form.dtype, ranges) for name, rows in there.items()}
    fields = {name: quantized.get(name) for name in vectors}
    return {**fields, "ranges": ranges} if form.calibrates else fields


def _bytes(rows: Rows, media: str) -> Answer:
    rows = little_endian(rows)
    headers = {
        "content-type": media,
        SHAPE_HEADER: ",".join(map(str, rows.shape)),
        DTYPE_HEADER: rows.dtype.name,
    }
    body = npy(rows) if media == NPY else rows.tobytes()
    return Answer(body, [(name.encode(), value.encode()) for name, value in headers.items()])


def _quality(parameters: list[str]) -> float:
    """Return the weight of a media type in an `Accept` header; 1 if it is missing or unreadable."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                break
    return 1.0


def json_response(content: Any) -> Response:  # noqa: ANN401 - anything that orjson can write
    """Return a JSON response; orjson writes arrays directly, without making lists of them."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def json_list(items: Sequence[Any]) -> Response:
    """Return a JSON list, encoded item by item: a thread then holds the interpreter's lock only briefly."""
    written = [orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY) for item in items]
    return Response(b"[" + b",".join(written) + b"]", media_type="application/json")


def to_response(answer: Answer) -> Response:
    """Convert an encoded answer to a response of the framework."""
    return Response(answer.body, headers={name.decode(): value.decode() for name, value in answer.headers})
