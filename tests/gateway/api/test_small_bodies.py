"""A body that is parsed on the event loop costs what it takes to read it, right or wrong."""

import tracemalloc

import pytest

from gateway.api.dialects.openai import EmbeddingsRequest
from gateway.api.request_body import SMALL, parse
from gateway.errors import InvalidInput
from tests.gateway.api.test_request_body import HEAD, costly


@pytest.mark.parametrize("name", ["lists", "objects", "depth", "fields"])
def test_a_small_body_of_many_parts_is_refused_before_they_are_made(name: str) -> None:
    with pytest.raises(InvalidInput, match="more than 50000 lists, objects and fields"):
        parse(EmbeddingsRequest, bytes(costly(name, SMALL - 100)))


def test_a_wrong_body_is_read_once() -> None:
    """A second time, to look for half a character, took as much again."""
    content = HEAD + b"[" + b"0.5," * 190_000 + b"0.5]}"
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=r"^input\.0: "):
            parse(EmbeddingsRequest, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The error keeps the list, 8 bytes and a float of 24 for each element of 4 bytes.
    assert peak < 12 * len(content)
