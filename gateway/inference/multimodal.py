"""Embeds the texts and images of one request at the same time, by towers of the same conversion."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.errors import Unavailable
from gateway.models.readiness import ANSWERED

Ask = Callable[[], Coroutine[Any, Any, Any]]

ASKED_AT_MOST = 3
"""Attempts to get both answers from one conversion; a switch to a new version costs one attempt."""


async def both(texts: Ask, images: Ask) -> tuple[Any, Any]:
    """Run both calls concurrently until both are answered by towers of one conversion.

    A new version of the model may take over between the two answers; then both calls are repeated.

    Args:
        texts: Starts the embedding of the texts.
        images: Starts the embedding of the images.

    Returns:
        The two answers.

    Raises:
        Unavailable: The answers still came from different conversions after ASKED_AT_MOST attempts.
        Exception: The first failure of a call, unchanged.
    """
    for _ in range(ASKED_AT_MOST):
        pairs: set[str | None] = set()
        ANSWERED.set(pairs)
        answers = await _both(texts(), images())
        if len(pairs) <= 1:
            return answers
    raise Unavailable("the model is being replaced; retry in a moment")


async def _both(texts: Coroutine[Any, Any, Any], images: Coroutine[Any, Any, Any]) -> tuple[Any, Any]:
    """Await both; the first failure cancels the other, and its work that is not yet in Triton is dropped."""
    text, image = asyncio.create_task(texts), asyncio.create_task(images)
    try:
        await asyncio.wait({text, image}, return_when=asyncio.FIRST_EXCEPTION)
        return await text, await image
    finally:
        for task in (text, image):
            if not task.cancel() and not task.cancelled():
                # If both failed, only the text's error is raised; asyncio must not report the other.
                task.exception()
