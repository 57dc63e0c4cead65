"""Bodies: how they are read, and bounds on what they cost.

A JSON parser holds the interpreter's lock until it is done, about a millisecond a megabyte; for a large body
that would stop every other request. So the longer strings are taken out first, one by one and in a thread,
and what is left is parsed as any other body. Its parts are counted on the way: 64 MB of `0,` become some
gigabytes of Python's objects.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from gateway.api.base_schemas import assign, understand
from gateway.api.json_parts import Between, Texts, end_of_string, require_few_parts, too_many
from gateway.api.schemas import _TRIVIAL, Body
from gateway.api.validation import describe_validation, tells_of_surrogate
from gateway.concurrency import Budget
from gateway.errors import DeadlineExceeded, InvalidInput, TooLarge

SMALL = 1 << 20
"""Bytes up to which a body is read and parsed as it comes."""

MEMORY = 144 << 20
"""Bytes that larger bodies and their strings may hold together; more of them wait outside, unread."""

MOST_STRINGS = 10_000
"""Of a large body, or of MAX_INPUTS texts and as many images where that is more."""

_LONG = 1 << 9
"""Bytes from which a string is taken out."""

_TOO_LONG = 1 << 16
"""Characters that no field has but those of inputs."""

_INPUTS = ("text", "image", "input", "inputs", "texts", "images", "source_sentence", "sentences")
"""Fields that are inputs."""

_SURROGATE = "a lone surrogate is not Unicode text"

Body = TypeVar("Body", bound=BaseModel)


class Bodies:
    """Reads the bodies of all routes.

    max_bytes: of one body; the edge refuses larger ones, here it stands for an unknown length.
    timeout: seconds that a large body may take to arrive. max_inputs: of one request.
    """

    def __init__(self, max_bytes: int, timeout: float, max_inputs: int = 0) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._most_strings = max(MOST_STRINGS, 2 * max_inputs + 100)
        self._budget = Budget(MEMORY)

    @asynccontextmanager
    async def parsed(self, request: Request, schema: type[Body]) -> AsyncIterator[Body]:
        """The body; its memory counts for as long as the context lasts.

        Raises:
            InvalidInput: it does not fit the schema.
            TooLarge: it is longer than it said, or has more parts than any request needs.
            DeadlineExceeded: it does not arrive in time.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) <= SMALL:
            yield parse(schema, await request.body())
            return
        size = int(length) if length.isdigit() else self._max_bytes
        # Not `request.body()`: the request would keep it to its end.
        stream, content = request.stream(), bytearray()
        if not length.isdigit() and await self._is_small(stream, content):
            yield parse(schema, bytes(content))
            return
        # Twice: as it came, and as the strings made of it.
        async with self._budget.share(2 * size):
            yield await self._read(stream, content, schema, size)

    async def small(self, request: Request) -> bytes:
        """The body of a route that has no use for a large one.

        Raises:
            TooLarge: it is large.
            DeadlineExceeded: it does not arrive in time.
        """
        content = bytearray()
        if not await self._is_small(request.stream(), content):
            raise TooLarge(f"the body is larger than {SMALL} bytes, more than this route has a use for")
        return bytes(content)

    async def _is_small(self, stream: AsyncIterator[bytes], content: bytearray) -> bool:
        """Whether a body of unknown length ends before it is large; what came of it is in `content`."""
        async with self._in_time():
            async for part in stream:
                content += part
                if len(content) > SMALL:
                    return False
        return True

    async def _read(
        self, stream: AsyncIterator[bytes], content: bytearray, schema: type[Body], size: int
    ) -> Body:
        async with self._in_time():
            async for part in stream:
                content += part
        if len(content) > size:
            raise TooLarge("the body is longer than it said")
        return await asyncio.to_thread(parse_large, schema, content, self._most_strings)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded("the body did not arrive within the request's time limit") from error


def parse_large(schema: type[Body], content: bytearray, most_strings: int = MOST_STRINGS) -> Body:
    """As `schemas.parse`, with the interpreter's lock held for a small part of the body at a time.

    content: the JSON; empty afterwards.

    Raises:
        InvalidInput: it does not fit the schema.
        TooLarge: it has more parts than any request needs.
    """
    # Nobody else can know the mark, so no string of a caller's is taken for one.
    mark = secrets.token_hex(16)
    bare, lifted = lift(content, mark, most_strings)
    content.clear()
    body = parse(schema, bare)
    _put_back(body, mark, lifted)
    return body


def _put_back(body: BaseModel, mark: str, lifted: list[str | None]) -> None:
    """Give a body the long strings that its marks stand for."""
    for name, value in list(body.__dict__.items()):
        if isinstance(value, BaseModel):
            _put_back(value, mark, lifted)
        elif isinstance(value, list) and name in _INPUTS:
            body.__dict__[name] = [
                restored(part, mark, lifted, f"{name}.{index}") if isinstance(part, str) else part
                for index, part in enumerate(value)
            ]
        elif isinstance(value, str) and value.startswith(mark):
            text = restored(value, mark, lifted, name)
            if name in _INPUTS:
                body.__dict__[name] = text
            elif len(text) > _TOO_LONG:
                raise InvalidInput(f"{name}: {len(text)} characters are too many")
            else:
                assign(body, name, text)


def lift(content: bytearray, mark: str, most_strings: int) -> tuple[bytes, list[str | None]]:
    """The JSON with each long string replaced by `mark` and its number, and these strings; None for no text.

    Raises:
        InvalidInput: a long string is no JSON.
        TooLarge: it has too many parts, or its strings take too much memory.
    """
    bare, position, strings = bytearray(), 0, 0
    lifted: list[str | None] = []
    between, texts = Between(), Texts(max(SMALL << 4, len(content) * 3 // 2))
    with memoryview(content) as view:
        while (start := content.find(b'"', position)) >= 0:
            bare += between.taken(view[position:start])
            end = end_of_string(content, start + 1)
            if end < 0:
                raise InvalidInput("Invalid JSON: EOF while parsing a string")
            # Keys are counted with the fields. A long one is nobody's, and told as it is.
            is_key = content[end + 1 : end + 2] == b":"
            strings += not is_key
            if strings > most_strings:
                raise too_many("strings", most_strings)
            if end - start > _LONG and not is_key:
                bare += b'"%s%d"' % (mark.encode(), len(lifted))
                lifted.append(texts.text(view[start + 1 : end]))
            else:
                bare += view[start : end + 1]
            position = end + 1
        bare += between.taken(view[position:])
    return bytes(bare), lifted


def restored(text: str, mark: str, lifted: list[str | None], place: str) -> str:
    """The long string that a mark stands for; any other text as it is.

    Raises:
        InvalidInput: it is no text; `place` is where.
    """
    if not text.startswith(mark):
        return text
    found = lifted[int(text.removeprefix(mark))]
    if found is None:
        raise InvalidInput(f"{place}: {_SURROGATE}")
    return found


def parse(schema: type[Body], body: bytes) -> Body:
    """Read a JSON body without building it twice.

    Raises:
        InvalidInput: the body does not fit; the text says where.
    """
    if len(body) > _TRIVIAL:
        require_few_parts(body)
    try:
        found = schema.model_validate_json(body)
    except ValidationError as error:
        raise InvalidInput(_surrogate(body, error) or describe_validation(error)) from error
    if found.__pydantic_extra__:
        understand(found)
    return found


def _surrogate(body: bytes, error: ValidationError) -> str | None:
    """Where the lone surrogate is that made the JSON unreadable, or None if that was not the fault."""
    if not tells_of_surrogate(error):
        return None
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    for name, value in given.items():
        texts = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, text in texts:
            if isinstance(text, str) and not _is_unicode(text):
                place = name if index is None else f"{name}.{index}"
                return f"{place}: a lone surrogate is not Unicode text"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
