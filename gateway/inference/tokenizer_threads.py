"""Threads for tokenising that would block the event loop for too long.

The library cannot be stopped within a text. So these threads are few and do nothing else, and a request that
times out frees its thread after the current piece.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gateway.concurrency import Deadline, too_late
from gateway.inference.disconnect import watch_caller
from gateway.telemetry.metrics import TOKENIZING
from gateway.text.tokenizer import Tokenized

INLINE_CHARACTERS = 8192
"""Characters of a request up to which it is tokenised on the event loop, in a few milliseconds at most."""

THREADS = 4
PIECE_CHARACTERS = 1 << 18
"""Characters in one piece of work, a fraction of a second; a piece is at least one whole text."""

Found = TypeVar("Found")


class Tokenizing:
    """A pool of tokenising threads, which must be closed."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizing")

    async def run(self, work: Callable[[], Found], deadline: Deadline) -> Found:
        """Run a piece of work in a thread and return its result.

        Raises:
            DeadlineExceeded: The deadline has passed; the thread still finishes this piece.
        """
        watch_caller()

        def counted() -> Found:
            with TOKENIZING.track_inprogress():
                return work()

        task = asyncio.get_running_loop().run_in_executor(self._threads, counted)
        try:
            # Not `wait_for`: in Python 3.11 it drops a cancellation that coincides with the result.
            async with asyncio.timeout(deadline.remaining()):
                return await task
        except TimeoutError as error:
            raise too_late() from error

    async def encode(
        self,
        encode: Callable[..., Tokenized],
        texts: Sequence[Any],
        options: object,
        field: str,
        deadline: Deadline,
        *,
        one_by_one: bool,
    ) -> Tokenized:
        """Run `TextTokenizer.encode` or `encode_ids` on all texts, piece by piece.

        Args:
            encode: The method.
            texts: Texts, or token ids of texts.
            options: The method's.
            field: The method's, for messages.
            deadline: The request's.
            one_by_one: Whether each text is a piece of its own.

        Raises:
            DeadlineExceeded: The deadline has passed; the thread still finishes its piece.
        """
        rows, tokens, first = [], 0, 0
        while first < len(texts):
            end, size = first + 1, len(texts[first])
            while end < len(texts) and not one_by_one and size + len(texts[end]) <= PIECE_CHARACTERS:
                size += len(texts[end])
                end += 1
            piece = texts[first:end]
            done = await self.run(lambda piece=piece, at=first: encode(piece, options, field, at), deadline)  # type: ignore[misc]
            rows += done.rows
            tokens += done.tokens
            first = end
        return Tokenized(rows, tokens)

    def close(self) -> None:
        """End the threads without waiting for their current work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
