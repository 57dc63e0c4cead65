"""The words for a converter process that ends without a word of its own."""

import signal

import pytest

from gateway.model_id import ModelId
from gateway.models.converter import _how_it_ended


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-signal.SIGKILL, "was killed (SIGKILL), as the system does when memory runs out"),
        (-signal.SIGABRT, "was killed (SIGABRT), as the system does when memory runs out"),
        (-signal.SIGSEGV, "was ended by SIGSEGV, as when a library crashes on a model's files"),
        (-signal.SIGILL, "was ended by SIGILL"),
        (3, "ended with status 3 and no result"),
    ],
)
def test_the_signal_is_named(status: int, words: str) -> None:
    message = _how_it_ended(ModelId("owner/name"), status)
    assert f"the conversion of owner/name {words}" in message
    assert "log" not in message
