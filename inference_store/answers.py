"""The request's id in an answer: it is removed before the answer is recorded, and added again for a client.

Triton writes the id into the answer and, in brackets, before an error. Records hold the answer that a request
without an id gets.
"""

from dataclasses import replace

from google.protobuf.message import DecodeError

from inference_store.errors import StoreError
from inference_store.identity import without_id as serialized_without_id
from inference_store.protocol import InferResponse, Message, StreamResponse
from inference_store.record import Outcome

_UNKNOWN = "[request id: <id_unknown>] "


def without_id(outcome: Outcome, request_id: str) -> Outcome:
    """Return the outcome that a ModelInfer without an id would have.

    Raises:
        StoreError: The server's answer is not a ModelInferResponse.
    """
    if not outcome.good:
        return replace(outcome, message=message_without_id(outcome.message, request_id))
    try:
        answer = InferResponse.FromString(outcome.answers[0])
    except DecodeError as error:
        raise StoreError("the target's answer is no ModelInferResponse") from error
    return Outcome((serialized_without_id(answer),))


def message_without_id(message: str, request_id: str) -> str:
    """Return the error message that a request without an id would get."""
    named = f"[request id: {request_id}] "
    return _UNKNOWN + message.removeprefix(named) if request_id and message.startswith(named) else message


def message_with_id(message: str, request_id: str) -> str:
    """Return a recorded error message for a request with this id."""
    named = f"[request id: {request_id}] "
    return named + message.removeprefix(_UNKNOWN) if request_id and message.startswith(_UNKNOWN) else message


def stream_without_id(answer: Message, request_id: str) -> bytes:
    """Return the serialized ModelStreamInferResponse that a request without an id would get."""
    kept = StreamResponse()
    kept.CopyFrom(answer)
    kept.infer_response.ClearField("id")
    if kept.error_message:
        kept.error_message = message_without_id(kept.error_message, request_id)
    return bytes(kept.SerializeToString(deterministic=True))


def stream_with_id(answer: bytes, request_id: str) -> bytes:
    """Return a recorded ModelStreamInferResponse for a request with this id, serialized."""
    message = StreamResponse.FromString(answer)
    message.infer_response.id = request_id
    if message.error_message:
        message.error_message = message_with_id(message.error_message, request_id)
    return bytes(message.SerializeToString())
