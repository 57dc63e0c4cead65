"""The answers of the embedding routes: vectors in the form that was asked for, as JSON or as bytes."""

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
class Form:
    """How a request wants its vectors; see `gateway/inference/vectors.py`.

    dimensions: columns kept, None for all. ranges: float32 [2, D], of int8 and uint8; None to take them from
    the vectors of the request.
    """

    dimensions: int | None = None
    dtype: EmbeddingDtype = "float32"
    encoding_format: EncodingFormat = "float"
    ranges: NDArray[np.float32] | None = None

    @property
    def calibrates(self) -> bool:
        """Whether the ranges come from the vectors."""
        return self.ranges is None and self.dtype in ("int8", "uint8")


PLAIN = Form()
"""As the model gives them."""


class Answer(NamedTuple):
    """A body and its headers, without its length; they are of the form that ASGI sends."""

    body: bytes
    headers: list[tuple[bytes, bytes]]


PLAIN_JSON = [(b"content-type", JSON.encode())]


def media_type(accept: str) -> str:
    """What an `Accept` header asks for: bytes where it names them and does not prefer JSON, else JSON."""
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
    """Refuse bytes for texts and images at once, before anything is embedded.

    Raises:
        InvalidInput: they are asked for.
    """
    if media != JSON:
        raise InvalidInput(
            f"Accept: {media} carries vectors of text or of image; ask for one of them, or for {JSON}"
        )


def written(start: float, form: Form, media: str, vectors: dict[str, Vectors | None]) -> Answer:
    """The answer to a request that came at `start`, of `time.perf_counter`.

    vectors: by their field in the JSON; of a body of bytes only one is there.

    Raises:
        InvalidInput: the form does not fit the vectors.
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
    # Arrays are written without becoming lists.
    return Answer(orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY), PLAIN_JSON)


def shaped(form: Form, vectors: dict[str, Vectors | None]) -> dict[str, Rows | None]:
    """The vectors cut and quantised; `ranges`, float32 [2, D], are added where they come from the vectors.

    Raises:
        InvalidInput: the form does not fit the vectors.
    """
    there = {name: rows for name, rows in vectors.items() if rows is not None}
    if form.dimensions is not None:
        there = {name: cut(rows, form.dimensions) for name, rows in there.items()}
    ranges = form.ranges
    if form.calibrates:
        # Of texts and images together, so that they can be compared with each other.
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
    """The weight of a media type in an `Accept` header; 1 where there is none that can be read."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                break
    return 1.0


def json(content: Any) -> Response:  # noqa: ANN401 - what orjson writes
    """A JSON answer; arrays are written without becoming lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def json_list(items: Sequence[Any]) -> Response:
    """A JSON answer of one list, item by item: in a thread, nobody waits for the lock longer than for one."""
    written = [orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY) for item in items]
    return Response(b"[" + b",".join(written) + b"]", media_type="application/json")


def written(answer: Answer) -> Response:
    """An answer that is already written."""
    return Response(answer.body, headers={name.decode(): value.decode() for name, value in answer.headers})
