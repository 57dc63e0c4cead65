"""A large body is parsed beside the event loop, which goes on serving others."""

import asyncio
import json

import httpx
import pytest

from tests.gateway.middleware.test_fast_path import application

LARGE = json.dumps({"model_name": "a/model", "text": ["a" * (1 << 20)] * 24}).encode()
WRONG = b'{"model_name": "a/model", "text": [' + b"0," * (12 << 20) + b"0]}"


async def turns_during(content: bytes) -> tuple[int, int]:
    """The status of the answer, and how often the event loop ran something else before it came."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.post("/infer_text", content=content)
    counting.cancel()
    return answer.status_code, turns


@pytest.mark.parametrize(("content", "status"), [(LARGE, 200), (WRONG, 413)], ids=["texts", "zeros"])
def test_a_large_body_leaves_the_event_loop_to_others(content: bytes, status: int) -> None:
    found, turns = asyncio.run(turns_during(content))
    assert found == status
    assert turns > 100
