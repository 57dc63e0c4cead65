"""A large body is parsed beside the event loop, which goes on serving others."""

import asyncio
import json

import httpx
import pytest

from tests.gateway.middleware.test_fast_path import application
from tests.support.event_loop import turns_during

LARGE = json.dumps({"model_name": "a/model", "text": ["a" * (1 << 20)] * 24}).encode()
WRONG = LARGE.replace(b"]", b", 0.5]")


async def asked(content: bytes) -> int:
    """Send a body and return the status of the answer."""
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return (await client.post("/infer_text", content=content)).status_code


@pytest.mark.parametrize(
    ("content", "status"), [(LARGE, 200), (WRONG, 422)], ids=["texts", "a wrong element"]
)
def test_a_large_body_leaves_the_event_loop_to_others(content: bytes, status: int) -> None:
    found, turns = asyncio.run(turns_during(asked(content)))
    assert found == status
    assert turns > 0
