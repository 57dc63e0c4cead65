"""Decompression of request bodies: `Content-Encoding` gzip or deflate.

Source: RFC 9110, 8.4. A body is decompressed as it is read, so a decompression bomb stops at the body limit.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from gateway.errors import InvalidInput, TooLarge, UnknownEncoding

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's `wbits` for each encoding."""

_PIECE = 1 << 18
"""Bytes that one step decompresses at most, in under a millisecond."""

_INLINE = 1 << 20
"""Size in bytes of the decompressed part from which a thread decompresses the rest."""


def unpacked(scope: Scope, receive: Receive, encoding: bytes, most: int) -> Receive:
    """Return a `receive` that yields the decompressed body.

    Args:
        scope: the scope of the request; the headers that describe the compressed body are removed from it.
        receive: yields the compressed body.
        encoding: the value of `Content-Encoding`.
        most: the limit on the decompressed body, in bytes.

    Raises:
        UnknownEncoding: the encoding is not supported.
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
    """Yield the parts of the body as they arrive."""
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
            # After a full piece, zlib may hold more output although no input is left.
            rest, is_full = unpacking.unconsumed_tail, len(piece) == _PIECE and not unpacking.eof
            if piece:
                yield piece
    if not unpacking.eof:
        raise InvalidInput(f"the body ends inside its {name}")
