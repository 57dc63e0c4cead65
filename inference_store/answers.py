"""A request's id in its answer: taken out before an answer is kept, put back for whoever asks.

Triton writes it into the answer and, in brackets, before an error. What is kept is what a request without an
id gets.
"""

from dataclasses import replace

from google.protobuf.message import DecodeError

from inference_store.errors import StoreError
from inference_store.identity import without_id as serialized_without_id
from inference_store.protocol import InferResponse, Message, StreamResponse, with_id
from inference_store.record import Outcome

_UNKNOWN = "[request id: <id_unknown>] "


def without_id(outcome: Outcome, request_id: str) -> Outcome:
    """The outcome of a ModelInfer as of a request without an id.

    Raises:
        StoreError: the server's answer is none.

    """
    if not outcome.good:
        return replace(outcome, message=message_without_id(outcome.message, request_id))
    try:
        answer = InferResponse.FromString(outcome.answers[0])
    except DecodeError as error:
        raise StoreError("the target's answer is no ModelInferResponse") from error
    return Outcome((serialized_without_id(answer),))


def message_without_id(message: str, request_id: str) -> str:
    """An error's text as of a request without an id."""
    named = f"[request id: {request_id}] "
    return _UNKNOWN + message.removeprefix(named) if request_id and message.startswith(named) else message


def message_with_id(message: str, request_id: str) -> str:
    """An error's text for a request of this id."""
    named = f"[request id: {request_id}] "
    return named + message.removeprefix(_UNKNOWN) if request_id and message.startswith(_UNKNOWN) else message


def answer_with_id(outcome: Outcome, request_id: str) -> bytes:
    """The serialized ModelInferResponse of a good outcome."""
    return with_id(outcome.answers[0], request_id)


def stream_without_id(answer: Message, request_id: str) -> bytes:
    """A ModelStreamInferResponse as of a request without an id, serialized."""
    kept = StreamResponse()
    kept.CopyFrom(answer)
    kept.infer_response.ClearField("id")
    if kept.error_message:
        kept.error_message = message_without_id(kept.error_message, request_id)
    return bytes(kept.SerializeToString(deterministic=True))


def stream_with_id(answer: bytes, request_id: str) -> bytes:
    """A kept ModelStreamInferResponse for a request of this id, serialized."""
    message = StreamResponse.FromString(answer)
    message.infer_response.id = request_id
    if message.error_message:
        message.error_message = message_with_id(message.error_message, request_id)
    return bytes(message.SerializeToString())
