"""What can go wrong in talking to Triton, and with the embedded one.

    TritonError
    ├── TritonUnavailable      nobody answers, or the server is stopping
    ├── TritonTimeout          the deadline of a call passed
    ├── TritonOverloaded       the model's queue is full
    ├── ModelNotReady          unknown, not loaded, or another version is
    ├── ModelLoadFailed        Triton refused to load or unload it; `reason` is Triton's text, for the log
    ├── InferenceRejected      this request cannot be computed; sending it again will not help
    │   ├── TokensNotServed    the backend gives one vector for each row, none for its tokens
    │   └── NotFinite          the model computes no finite vector for a row; `row` says which
    ├── WrongAnswer            the answer is not one to this request; another try may be answered well
    └── EmbeddedTritonError    the embedded Triton cannot be started; the text names what to do

Texts of the first eight hold nothing that a client may not see; `reason` and EmbeddedTritonError
may hold paths.
"""


class TritonError(Exception):
    """The base of what is raised by the client and the embedded Triton."""


class TritonUnavailable(TritonError):
    """Nobody answers at Triton's address, or it is stopping."""


class TritonTimeout(TritonError):
    """The deadline of a call passed."""


class TritonOverloaded(TritonError):
    """The model's queue in Triton is full; the request was not begun."""


class ModelNotReady(TritonError):
    """Triton does not serve this model in this version now."""


class ModelLoadFailed(TritonError):
    """Triton could not load or unload a model.

    reason: Triton's own text. It may hold paths: for the log, not for a client.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Triton could not load {name}")
        self.reason = reason


class InferenceRejected(TritonError):
    """Triton refused this request."""


class TokensNotServed(InferenceRejected):
    """The backend of this Triton, or the model as it was converted, gives no vectors of tokens."""


class NotFinite(InferenceRejected):
    """The model's vector for a row of the request holds NaN or inf.

    row: its place in the request, from 0.
    """

    def __init__(self, name: str, row: int) -> None:
        super().__init__(f"the vector that {name} computes for row {row} is not finite")
        self.row = row


class WrongAnswer(TritonError):
    """The answer does not fit the request. Seen of a Triton about to crash, its memory overwritten."""


class EmbeddedTritonError(TritonError):
    """The embedded Triton cannot be started. Names what to do; may hold paths, for the operator only."""
