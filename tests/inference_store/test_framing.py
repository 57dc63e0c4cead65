"""The store refuses bodies that a proxy in front could end elsewhere, and closes their connection."""

import asyncio
from typing import Any

import pytest

from inference_store.http_server import HttpApplication

CHUNKED, LENGTH = (b"transfer-encoding", b"chunked"), (b"content-length", b"0")


@pytest.mark.parametrize(
    ("version", "headers", "said"),
    [
        ("1.1", [CHUNKED, LENGTH], b"Content-Length or Transfer-Encoding, not both"),
        ("1.1", [LENGTH, CHUNKED], b"Content-Length or Transfer-Encoding, not both"),
        ("1.0", [CHUNKED], b"Transfer-Encoding needs HTTP/1.1"),
        ("2.0", [LENGTH], b"use HTTP/1.1"),
    ],
)
def test_a_body_of_two_ends_is_refused(version: str, headers: list[tuple[bytes, bytes]], said: bytes) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("its body is read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"method": "POST", "raw_path": b"/v2", "headers": headers, "http_version": version}
    application = HttpApplication(None, 1000)  # type: ignore[arg-type] # nothing is asked of it
    asyncio.run(application(scope, receive, send))
    start, body = sent
    assert start["status"] == 400
    assert (b"connection", b"close") in start["headers"]
    assert said in body["body"]
