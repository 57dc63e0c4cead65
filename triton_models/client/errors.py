"""The errors of calls to Triton, and of the embedded Triton.

    TritonError
    ├── TritonUnavailable      nobody answers, or the server is stopping
    ├── TritonTimeout          the deadline of a call passed
    ├── TritonOverloaded       the model's queue is full
    ├── ModelNotReady          the model is unknown or not loaded, or another version of it is
    ├── ModelLoadFailed        Triton refused to load or unload it; `reason` is Triton's text, for the log
    ├── InferenceRejected      this request cannot be computed; sending it again will not help
    │   ├── TokensNotServed    the backend gives one vector for each row, none for its tokens
    │   └── NotFinite          the model computes no finite vector for a row; `row` says which
    ├── WrongAnswer            the answer does not fit this request; another try may succeed
    └── EmbeddedTritonError    the embedded Triton cannot be started; the message says what to do

Clients may see the messages of all errors but EmbeddedTritonError. Its message and `reason` may hold paths.
"""


class TritonError(Exception):
    """The base class of the errors of the client and the embedded Triton."""


class TritonUnavailable(TritonError):
    """Nobody answers at Triton's address, or Triton is stopping."""


class TritonTimeout(TritonError):
    """The deadline of a call passed."""


class TritonOverloaded(TritonError):
    """The model's queue in Triton is full; Triton did not begin the request."""


class ModelNotReady(TritonError):
    """Triton does not serve this model in this version now."""


class ModelLoadFailed(TritonError):
    """Triton could not load or unload a model.

    Attributes:
        reason: Triton's own text. It may hold paths, so it is for the log and not for a client.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Triton could not load {name}")
        self.reason = reason


class InferenceRejected(TritonError):
    """Triton refused this request."""


class TokensNotServed(InferenceRejected):
    """This Triton's backend or the converted model gives no vectors for tokens."""


class NotFinite(InferenceRejected):
    """The model's vector for a row of the request holds NaN or inf.

    Attributes:
        row: Index of the row in the request, from 0.
    """

    def __init__(self, name: str, row: int) -> None:
        super().__init__(f"the vector that {name} computes for row {row} is not finite")
        self.row = row


class WrongAnswer(TritonError):
    """The answer does not fit the request.

    This was seen in a Triton that was about to crash because its memory had been overwritten.
    """


class EmbeddedTritonError(TritonError):
    """The embedded Triton cannot be started; the message, for the operator only, says what to do."""
