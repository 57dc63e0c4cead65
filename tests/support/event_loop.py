"""Counts what an event loop does beside the work that a test waits for."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def turns_during(work: Awaitable[Result]) -> tuple[Result, int]:
    """Return the result of `work`, and how often the event loop ran something else before it came."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        return await work, turns
    finally:
        counting.cancel()
