r"""One record: what was asked and what was answered, as a file's bytes.

    inference-store 1 SHA256\n     the format's version, and the SHA-256 of all that follows
    {...}\n                        the index, readable JSON: request, answer, when, how long
    \n
    request, answer, answer, ...   protobuf, one after another, their lengths in the index

The same bytes go to every backend.
"""

import hashlib
import json
import re
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from inference_store.identity import Description, identity
from inference_store.protocol import INFER, STREAM, InferResponse, StreamResponse

FORMAT = 1
"""The version that this module writes, and the newest that it reads."""

HEAD_BYTES = 1 << 16
"""First bytes of a file in which its index normally is."""

_FIRST_LINE = re.compile(rb"inference-store ([1-9][0-9]{0,8}) (.*)")


class UnreadableRecord(Exception):
    """A record cannot be used; the text says which and why."""


class DamagedRecord(UnreadableRecord):
    """Its bytes are not those that were written, or were never a record."""


class NewerRecord(UnreadableRecord):
    """A newer version of this program wrote it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the server answered.

    answers: serialized answers without ids; several of a stream, none of an error.
    code: name of the gRPC status, "OK" or another. message: of an error.
    """

    answers: tuple[bytes, ...]
    code: str = "OK"
    message: str = ""

    @property
    def good(self) -> bool:
        """Whether it is no error."""
        return self.code == "OK"


@dataclass(frozen=True, slots=True)
class Record:
    """A request and its outcome. key: the request's identity. request: serialized, without its id.

    recorded: when, ISO 8601. took_ms: how long the server took, in ms.
    """

    key: str
    description: Description
    request: bytes
    outcome: Outcome
    recorded: str = ""
    took_ms: float = 0.0

    @property
    def size(self) -> int:
        """Bytes held in memory, near enough."""
        return len(self.request) + sum(map(len, self.outcome.answers)) + 2048


def make(
    description: Description, request: bytes, outcome: Outcome, took_seconds: float, key: str | None = None
) -> Record:
    """The record of something answered just now. key: its identity, where that is known."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Record(
        key or identity(description), description, request, outcome, now, round(took_seconds * 1000, 3)
    )


def same(one: Record, other: Record) -> bool:
    """Whether two records of one request say the same, whenever they were made."""
    return replace(one, recorded="", took_ms=0.0) == replace(other, recorded="", took_ms=0.0)


def encode(record: Record, *, compress: bool = False) -> bytes:
    """The bytes of a record; equal for equal records."""
    outcome = record.outcome
    payload = b"".join((record.request, *outcome.answers))
    index: dict[str, Any] = {
        "key": record.key,
        "request": record.description,
        "answer": _answer_index(record),
        "recorded": record.recorded,
        "took_ms": record.took_ms,
        "request_bytes": len(record.request),
        "answer_bytes": [len(answer) for answer in outcome.answers],
    }
    if compress:
        index["compression"] = "zlib"
        payload = zlib.compress(payload, 6)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in index.items())
    body = f"{{\n{lines}\n}}\n\n".encode() + payload
    return b"inference-store %d %s\n" % (FORMAT, hashlib.sha256(body).hexdigest().encode()) + body


def decode(data: bytes, key: str) -> Record:
    """The record in `data`, which was found under the name `key`.

    Raises:
        DamagedRecord: it is not whole, not a record, or another request's.
        NewerRecord: of a newer format.

    """
    _, _, body = data.partition(b"\n")
    index = read_index(data, key)
    # Every byte counts, those of the index as well.
    if data[: -len(body)].split()[-1] != hashlib.sha256(body).hexdigest().encode():
        raise DamagedRecord(f"record {key} is damaged: its checksum differs")
    payload = body.partition(b"\n\n")[2]
    try:
        if index.get("compression") == "zlib":
            payload = zlib.decompress(payload)
        ends = [index["request_bytes"]]
        for length in index["answer_bytes"]:
            ends.append(ends[-1] + length)
        answer = index["answer"]
        record = Record(
            index["key"],
            index["request"],
            payload[: ends[0]],
            Outcome(
                tuple(payload[start:end] for start, end in pairwise(ends)),
                answer["status"],
                answer.get("message", ""),
            ),
            index["recorded"],
            index["took_ms"],
        )
    except (zlib.error, KeyError, TypeError) as error:
        raise DamagedRecord(f"record {key} is damaged: {error!r}") from error
    if ends[-1] != len(payload):
        raise DamagedRecord(f"record {key} is damaged: its lengths do not add up")
    return record


def read_index(data: bytes, key: str) -> dict[str, Any]:
    """The index in `data`, the first bytes of a record found under the name `key`; its form alone is checked.

    Raises:
        DamagedRecord, NewerRecord: as `decode`.

    """
    first, _, rest = data.partition(b"\n")
    match = _FIRST_LINE.fullmatch(first)
    if match is None:
        raise DamagedRecord(f"record {key} is damaged: it does not begin as a record")
    if int(match[1]) > FORMAT:
        raise NewerRecord(
            f"record {key} has format {int(match[1])}, this version reads up to {FORMAT}: upgrade the store"
        )
    text, separator, _ = rest.partition(b"\n\n")
    try:
        index = json.loads(text) if separator else None
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict) or not isinstance(index.get("request"), dict):
        raise DamagedRecord(f"record {key} is damaged: its index cannot be read")
    if index.get("key") != key:
        other = ascii(str(index.get("key"))[:64])[1:-1]
        raise DamagedRecord(f"record {key} is damaged: it is the record {other}")
    return index


def _answer_index(record: Record) -> dict[str, Any]:
    """What a reader wants to know of the answer."""
    outcome = record.outcome
    index: dict[str, Any] = {"status": outcome.code}
    if not outcome.good:
        return {**index, "message": outcome.message}
    method = record.description["method"]
    if method == INFER:
        index |= _shapes(InferResponse.FromString(outcome.answers[0]))
    elif method == STREAM:
        index["stream"] = [
            {"error": answer.error_message} if answer.error_message else _shapes(answer.infer_response)
            for answer in map(StreamResponse.FromString, outcome.answers)
        ]
    return index


def _shapes(response: Any) -> dict[str, Any]:  # noqa: ANN401 - a ModelInferResponse
    return {
        "version": response.model_version,
        "outputs": [
            {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
            for output in response.outputs
        ],
    }
