"""Threads for tokenising that would hold the event loop too long.

The library cannot be stopped within a text. So these threads are few and serve nothing else, and a request
whose time is over leaves its thread after the piece that is under way.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gateway.inference.deadline import Deadline, too_late
from gateway.inference.disconnect import watch_caller
from gateway.telemetry.metrics import TOKENIZING
from gateway.text.tokenizer import Tokenized

INLINE_CHARACTERS = 8192
"""Texts up to this are tokenised on the event loop, in milliseconds at most; longer ones in a thread."""

THREADS = 4
PIECE_CHARACTERS = 1 << 18
"""What a thread does at a time, in a fraction of a second: whole texts, at least one."""

Found = TypeVar("Found")


class Tokenizing:
    """The threads; to be closed."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizing")

    async def run(self, work: Callable[[], Found], deadline: Deadline) -> Found:
        """The result of a piece of work.

        Raises:
            DeadlineExceeded: the time is over; the thread goes on to the end of this piece.
        """
        watch_caller()

        def counted() -> Found:
            with TOKENIZING.track_inprogress():
                return work()

        task = asyncio.get_running_loop().run_in_executor(self._threads, counted)
        try:
            # Not `wait_for`: in Python 3.11 it drops a cancellation that comes in the moment of the result.
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
        """`TextTokenizer.encode` or `encode_ids` of all texts, piece by piece."""
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
        """Let the threads end; what they are at is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
