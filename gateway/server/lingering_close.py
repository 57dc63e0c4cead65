"""Closes a connection so that its client can read the last response, even if it is still sending.

If the server closed a connection with unread data, TCP would reset it, and the client could lose the
response. So the server first ends its own side, and discards what comes until the client has closed the
connection too (RFC 9112, section 9.6).
"""

import asyncio
from collections.abc import Callable

LINGER_SECONDS = 10.0
LINGER_BYTES = 64 << 20
"""Limits on what a client may go on sending after the last response of its connection."""


class LingeringClose:
    """The end of one connection.

    Args:
        transport: The transport of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left = LINGER_BYTES
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_begun(self) -> bool:
        """True from the end of the server's side on."""
        return self._timer is not None

    def begin(self) -> None:
        """End the server's side, after what has been written."""
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)
        self._transport.write_eof()

    def discard(self, size: int) -> None:
        """Count bytes that nobody reads, and abort the connection if they are too many."""
        self._left -= size
        if self._left < 0:
            self._transport.abort()

    def cancel(self) -> None:
        """Stop waiting; the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()


class LastResponse:
    """The part of a connection's transport that uvicorn's responses use; `close` is the protocol's own.

    Args:
        transport: The transport of the connection.
        ending: Its lingering close; once that has begun, the connection counts as closing.
        close: Called when a response that closes the connection is complete.
    """

    def __init__(
        self, transport: asyncio.Transport, ending: LingeringClose, close: Callable[[], None]
    ) -> None:
        self.write = transport.write
        self.close = close
        self._transport = transport
        self._ending = ending

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return self._ending.has_begun or self._transport.is_closing()
