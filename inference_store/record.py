r"""One record, a request and its answers, as the bytes of a file.

    inference-store 1 SHA256\n     the format's version, and the SHA-256 of all following bytes
    {...}\n                        the index, readable JSON: request, answer, date, duration
    \n
    request, answer, answer, ...   protobuf, one after another, with their lengths in the index

The bytes are the same in every backend.
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
"""The number of bytes at the start of a file that normally hold its index."""

_FIRST_LINE = re.compile(rb"inference-store ([1-9][0-9]{0,8}) (.*)")


class UnreadableRecord(Exception):
    """A record cannot be used; the message says which one and why."""


class DamagedRecord(UnreadableRecord):
    """The bytes of a record are not those that were written, or were never a record."""


class NewerRecord(UnreadableRecord):
    """A newer version of this program wrote the record."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The server's answer.

    Attributes:
        answers: Serialized answers without ids; several for a stream, none for an error.
        code: Name of the gRPC status, "OK" or another.
        message: Message of an error.
    """

    answers: tuple[bytes, ...]
    code: str = "OK"
    message: str = ""

    @property
    def good(self) -> bool:
        """True unless the server answered with an error."""
        return self.code == "OK"


@dataclass(frozen=True, slots=True)
class Record:
    """A request and its outcome.

    Attributes:
        key: Identity of the request.
        description: Description of the request.
        request: Serialized request without its id.
        outcome: The server's answer.
        recorded: Date of the recording, ISO 8601.
        took_ms: Time that the server took, in ms.
    """

    key: str
    description: Description
    request: bytes
    outcome: Outcome
    recorded: str = ""
    took_ms: float = 0.0

    @property
    def size(self) -> int:
        """The approximate number of bytes in memory."""
        return len(self.request) + sum(map(len, self.outcome.answers)) + 2048


def make(
    description: Description, request: bytes, outcome: Outcome, took_seconds: float, key: str | None = None
) -> Record:
    """Make the record of a request answered just now; `key` is its identity, if already known."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Record(
        key or identity(description), description, request, outcome, now, round(took_seconds * 1000, 3)
    )


def same(one: Record, other: Record) -> bool:
    """Return whether two records of one request are equal except for date and duration."""
    return replace(one, recorded="", took_ms=0.0) == replace(other, recorded="", took_ms=0.0)


def encode(record: Record, *, compress: bool = False) -> bytes:
    """Return the bytes of a record; equal records have equal bytes."""
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
    """Read the record in `data`, which was found under the name `key`.

    Raises:
        DamagedRecord: The record is damaged, not a record, or another request's.
        NewerRecord: The record has a newer format.
    """
    _, _, body = data.partition(b"\n")
    index = read_index(data, key)
    # The checksum covers every byte, including those of the index.
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
    """Read the index in `data`, the first bytes of a record found under the name `key`.

    Only the index's form is checked.

    Raises:
        DamagedRecord, NewerRecord: As for `decode`.
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
    """Return the index of the answer, for a human reader."""
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
