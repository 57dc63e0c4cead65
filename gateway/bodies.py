"""Bodies that carry images: megabytes each, so not read all at once, and not parsed in one piece.

A JSON parser holds the interpreter's lock until it is done, about a millisecond a megabyte; for a large body
that would stop every other request. So the long strings are taken out first, one by one and in a thread, and
what is left is parsed as any other body.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from pydantic import BaseModel
from starlette.requests import Request

from gateway import schemas
from gateway.budget import Budget
from gateway.errors import DeadlineExceeded, InvalidInput, TooLarge

SMALL = 1 << 20
"""Bytes up to which a body is read and parsed as it comes."""

MEMORY = 144 << 20
"""Bytes that larger bodies and their strings may hold together; more of them wait outside, unread."""

_LONG = 1 << 16
"""Bytes from which a string is taken out."""

_INPUTS = ("text", "image", "input", "texts", "images")
"""Fields in which a long string is put back; in any other it is too long."""

Body = TypeVar("Body", bound=BaseModel)


class Bodies:
    """Reads the bodies of the routes that take images.

    max_bytes: of one body; the edge refuses larger ones, here it stands for an unknown length.
    timeout: seconds that a large body may take to arrive.
    """

    def __init__(self, max_bytes: int, timeout: float) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._budget = Budget(MEMORY)

    @asynccontextmanager
    async def parsed(self, request: Request, schema: type[Body]) -> AsyncIterator[Body]:
        """The body; its memory counts for as long as the context lasts.

        Raises:
            InvalidInput: it does not fit the schema.
            DeadlineExceeded: it does not arrive in time.
        """
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdigit() else self._max_bytes
        if length.isdigit() and size <= SMALL:
            yield schemas.parse(schema, await request.body())
            return
        # Twice: as it came, and as the strings made of it.
        async with self._budget.share(2 * size):
            yield await self._read(request, schema, size)

    async def _read(self, request: Request, schema: type[Body], size: int) -> Body:
        content = bytearray()
        try:
            async with asyncio.timeout(self._timeout):
                # Not `request.body()`: the request would keep it to its end.
                async for part in request.stream():
                    content += part
        except TimeoutError as error:
            raise DeadlineExceeded("the body did not arrive within the request's time limit") from error
        if len(content) > size:
            raise TooLarge("the body is longer than it said")
        return await asyncio.to_thread(parse_large, schema, content)


def parse_large(schema: type[Body], content: bytearray) -> Body:
    """As `schemas.parse`, with the interpreter's lock held for one long string at a time.

    content: the JSON; empty afterwards.

    Raises:
        InvalidInput: it does not fit the schema.
    """
    # Nobody else can know the mark, so no string of a caller's is taken for one.
    mark = secrets.token_hex(16)
    bare, lifted = lift(content, mark)
    content.clear()
    body = schemas.parse(schema, bare)
    for name, value in list(body):
        if name in _INPUTS and isinstance(value, list):
            texts = (restored(part, mark, lifted) if isinstance(part, str) else part for part in value)
            setattr(body, name, list(texts))
        elif name in _INPUTS and isinstance(value, str):
            setattr(body, name, restored(value, mark, lifted))
        elif isinstance(value, str) and value.startswith(mark):
            raise InvalidInput(f"{name}: {len(restored(value, mark, lifted))} characters are too many")
    return body


def lift(content: bytearray, mark: str) -> tuple[bytes, list[str]]:
    """The JSON with each long string replaced by `mark` and its number, and these strings.

    Strings with an escape, or a control character, which JSON forbids, stay where they are, for the parser.

    Raises:
        InvalidInput: a long string is not UTF-8.
    """
    bare, copied, position = bytearray(), 0, 0
    lifted: list[str] = []
    with memoryview(content) as view:
        while (start := content.find(b'"', position)) >= 0:
            end = _end_of_string(content, start + 1)
            if end < 0:
                break
            if end - start > _LONG and _is_plain(content, view, start + 1, end):
                bare += b"%s%s%d" % (view[copied : start + 1], mark.encode(), len(lifted))
                lifted.append(_text(view[start + 1 : end]))
                copied = end
            position = end + 1
        bare += view[copied:]
    return bytes(bare), lifted


def _is_plain(content: bytearray, view: memoryview, start: int, end: int) -> bool:
    """Whether a string stands for itself, byte by byte."""
    return content.find(b"\\", start, end) < 0 and int(np.frombuffer(view[start:end], np.uint8).min()) >= 0x20


def restored(text: str, mark: str, lifted: list[str]) -> str:
    """The long string that a mark stands for; any other text as it is."""
    return lifted[int(text.removeprefix(mark))] if text.startswith(mark) else text


def _end_of_string(content: bytearray, start: int) -> int:
    """Where the quote is that ends the string whose first character is at `start`; -1 for none."""
    position = start
    while (end := content.find(b'"', position)) >= 0:
        backslashes = 0
        while end - backslashes > start and content[end - backslashes - 1] == 0x5C:
            backslashes += 1
        if backslashes % 2 == 0:
            return end
        position = end + 1
    return -1


def _text(content: memoryview) -> str:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("Invalid JSON: invalid unicode code point") from error
