"""Reading of request bodies, with limits on their cost.

A JSON parser holds the interpreter's lock until it is done, about a millisecond per megabyte. For a large
body, that would block every other request. So a thread first takes out the long strings one by one; the rest
is then parsed like any other body. The parts are counted on the way, because 64 MB of `0,` would become
gigabytes of Python objects.
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
from gateway.api.validation import describe_validation, tells_of_surrogate
from gateway.concurrency import WeightedSemaphore
from gateway.errors import DeadlineExceeded, InvalidInput, TooLarge

SMALL = 1 << 20
"""Bytes up to which a body is read and parsed directly."""

MEMORY = 144 << 20
"""Bytes that all larger bodies and their strings may take together; further bodies wait unread."""

MOST_STRINGS = 10_000
"""Limit on the strings of a large body. It is higher if MAX_INPUTS texts and as many images need more."""

_TRIVIAL = 1 << 16
"""Bytes up to which a body is too small for its parts to need counting."""

_LONG = 1 << 9
"""Bytes from which a string is taken out before parsing."""

_TOO_LONG = 1 << 16
"""Limit in characters on a field that is not an input."""

_INPUTS = frozenset(
    "text image input inputs texts images source_sentence sentences query documents queries items "
    "text_1 text_2 data_1 data_2".split()
)
"""Names of the fields that are inputs."""

_SURROGATE = "a lone surrogate is not Unicode text"

Body = TypeVar("Body", bound=BaseModel)


class Bodies:
    """Reads the bodies of all routes.

    Args:
        max_bytes: the limit on one body, assumed as the size of a body of unknown length;
            `AccessMiddleware` refuses larger bodies.
        timeout: seconds that a large body may take to arrive.
        max_inputs: inputs that one request may have.
    """

    def __init__(self, max_bytes: int, timeout: float, max_inputs: int = 0) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._most_strings = max(MOST_STRINGS, 2 * max_inputs + 100)
        self._budget = WeightedSemaphore(MEMORY)

    @asynccontextmanager
    async def parsed(self, request: Request, schema: type[Body]) -> AsyncIterator[Body]:
        """Read and parse a body; its memory is accounted for until the context ends.

        Raises:
            InvalidInput: the body does not fit the schema.
            TooLarge: the body is longer than it declared, or has more parts than any request needs.
            DeadlineExceeded: the body does not arrive in time.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) <= SMALL:
            yield parse(schema, await request.body())
            return
        size = int(length) if length.isdigit() else self._max_bytes
        # `request.body()` would keep the bytes until the request ends.
        stream, content = request.stream(), bytearray()
        if not length.isdigit() and await self._is_small(stream, content):
            yield parse(schema, bytes(content))
            return
        # A body counts twice: as the bytes received, and as the strings decoded from them.
        async with self._budget.acquire(2 * size):
            yield await self._read(stream, content, schema, size)

    async def small(self, request: Request) -> bytes:
        """Read the body of a route that needs only small bodies.

        Raises:
            TooLarge: the body is larger than SMALL.
            DeadlineExceeded: the body does not arrive in time.
        """
        content = bytearray()
        if not await self._is_small(request.stream(), content):
            raise TooLarge(f"the body is larger than {SMALL} bytes, more than this route has a use for")
        return bytes(content)

    async def _is_small(self, stream: AsyncIterator[bytes], content: bytearray) -> bool:
        """Read a body into `content` until it ends or exceeds SMALL; return whether it ended."""
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
    """Parse a body like `parse`, but hold the interpreter's lock for only a small part of it at a time.

    Args:
        schema: the schema of the body.
        content: the JSON; this function empties it.
        most_strings: the limit on the strings of the body.

    Raises:
        InvalidInput: the body does not fit the schema.
        TooLarge: the body has more parts than any request needs.
    """
    # The mark is random, so a string of the caller cannot be mistaken for one.
    mark = secrets.token_hex(16)
    bare, lifted = lift(content, mark, most_strings)
    content.clear()
    body = parse(schema, bare)
    _put_back(body, mark, lifted)
    return body


def _put_back(body: BaseModel, mark: str, lifted: list[str | None]) -> None:
    """Replace the marks in a body with the long strings that they stand for."""
    for name, value in list(body.__dict__.items()):
        if isinstance(value, BaseModel):
            _put_back(value, mark, lifted)
        elif isinstance(value, list) and name in _INPUTS:
            body.__dict__[name] = _put_back_all(value, mark, lifted, name)
        elif isinstance(value, str) and value.startswith(mark):
            text = restored(value, mark, lifted, name)
            if name in _INPUTS:
                body.__dict__[name] = text
            elif len(text) > _TOO_LONG:
                raise InvalidInput(f"{name}: {len(text)} characters are too many")
            else:
                assign(body, name, text)


def _put_back_all(values: list[Any], mark: str, lifted: list[str | None], place: str) -> list[Any]:
    """Return a list of strings, lists or objects with the long strings that marks stand for."""
    found = []
    for index, part in enumerate(values):
        if isinstance(part, BaseModel):
            _put_back(part, mark, lifted)
        elif isinstance(part, str):
            part = restored(part, mark, lifted, f"{place}.{index}")
        elif isinstance(part, list):
            part = _put_back_all(part, mark, lifted, f"{place}.{index}")
        found.append(part)
    return found


def lift(content: bytearray, mark: str, most_strings: int) -> tuple[bytes, list[str | None]]:
    """Replace each long string in a JSON text with `mark` and a number.

    Returns:
        The shortened JSON, and the strings by number; None for a string with a lone surrogate.

    Raises:
        InvalidInput: a long string is not valid JSON.
        TooLarge: the text has too many parts, or its strings take too much memory.
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
            # Keys count as fields. No field has a long name, so an error shows such a key unchanged.
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
    """Return the long string that a mark stands for; return any other text unchanged.

    Raises:
        InvalidInput: the string has a lone surrogate; the error says that it is at `place`.
    """
    if not text.startswith(mark):
        return text
    found = lifted[int(text.removeprefix(mark))]
    if found is None:
        raise InvalidInput(f"{place}: {_SURROGATE}")
    return found


def parse(schema: type[Body], body: bytes) -> Body:
    """Parse and validate a JSON body in one step.

    Raises:
        InvalidInput: the body does not fit the schema; the message says where.
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
    """Return the message that names the lone surrogate of unreadable JSON; None if there is none."""
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
                return f"{place}: {_SURROGATE}"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
