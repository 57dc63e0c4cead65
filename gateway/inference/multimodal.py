"""Texts and images of one request, embedded at the same time by towers of one conversion."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.errors import Unavailable
from gateway.models.readiness import ANSWERED

Ask = Callable[[], Coroutine[Any, Any, Any]]

ASKED_AT_MOST = 3
"""Times that both towers are asked until they are of one conversion; one taking over costs one."""


async def both(texts: Ask, images: Ask) -> tuple[Any, Any]:
    """The two at once, by towers of one conversion; the first failure is raised as it was.

    A new version of the model may take over between the two: then both are asked once more.
    """
    for _ in range(ASKED_AT_MOST):
        pairs: set[str | None] = set()
        ANSWERED.set(pairs)
        answers = await _both(texts(), images())
        if len(pairs) <= 1:
            return answers
    raise Unavailable("the model is being replaced; retry in a moment")


async def _both(texts: Coroutine[Any, Any, Any], images: Coroutine[Any, Any, Any]) -> tuple[Any, Any]:
    """What fails first gives up the other: what of that has not gone to Triton is dropped."""
    text, image = asyncio.create_task(texts), asyncio.create_task(images)
    try:
        await asyncio.wait({text, image}, return_when=asyncio.FIRST_EXCEPTION)
        return await text, await image
    finally:
        for task in (text, image):
            if not task.cancel() and not task.cancelled():
                # Where both failed, only the text's error is raised.
                task.exception()
