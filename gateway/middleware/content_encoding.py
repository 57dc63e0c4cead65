"""Bodies that come packed: `Content-Encoding` gzip or deflate.

Source: RFC 9110, 8.4. They are unpacked as they are read, so a bomb ends at the limit on bodies.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from gateway.errors import InvalidInput, TooLarge, UnknownEncoding

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's number for each encoding."""

_PIECE = 1 << 18
"""Bytes that are unpacked at a time, in under a millisecond."""

_INLINE = 1 << 20
"""Bytes from which a thread unpacks the rest."""


def unpacked(scope: Scope, receive: Receive, encoding: bytes, most: int) -> Receive:
    """A `receive` that gives the body as it was before it was packed; the scope's headers say so.

    most: bytes of it.

    Raises:
        UnknownEncoding: it is packed in another way.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return receive
    if name not in _WINDOWS:
        raise UnknownEncoding("Content-Encoding: only gzip and deflate are known; send the body as it is")
    scope["headers"] = [
        header for header in scope["headers"] if header[0] not in (b"content-encoding", b"content-length")
    ]
    pieces = _unpacked(_parts(receive), zlib.decompressobj(_WINDOWS[name]), name.decode(), most)
    ended = False

    async def receive_unpacked() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        piece = await anext(pieces, None)
        ended = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": not ended}

    return receive_unpacked


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _unpacked(
    parts: AsyncIterator[bytes], unpacking: "zlib._Decompress", name: str, most: int
) -> AsyncIterator[bytes]:
    size = 0
    async for part in parts:
        rest, is_full = part, False
        while rest or is_full:
            try:
                if size < _INLINE:
                    piece = unpacking.decompress(rest, _PIECE)
                else:
                    piece = await asyncio.to_thread(unpacking.decompress, rest, _PIECE)
            except zlib.error as error:
                raise InvalidInput(f"the body is no {name}, as Content-Encoding says it is") from error
            size += len(piece)
            if size > most:
                raise TooLarge(f"the unpacked body is larger than {most} bytes; send fewer or smaller inputs")
            if unpacking.unused_data:
                raise InvalidInput(f"bytes follow the end of the {name} in the body")
            # What is full may have more to give, though nothing is left to put in.
            rest, is_full = unpacking.unconsumed_tail, len(piece) == _PIECE and not unpacking.eof
            if piece:
                yield piece
    if not unpacking.eof:
        raise InvalidInput(f"the body ends inside its {name}")
