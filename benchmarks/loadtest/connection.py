"""One HTTP/1.1 keep-alive connection, as cheap as Python allows: no event loop, no header dictionary.

This module does not decide when requests are sent, and does not interpret answers.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

Socket = socket.socket

CONNECT_TIMEOUT = 10.0
ENDLESS = 1 << 62
"""The quota of a connection that stops only when the time or the requests end."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d)")
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


class AnswerError(Exception):
    """This client cannot use an answer; the message says why."""


class Stale(Exception):
    """The server closed a kept connection before it began to answer."""


class Answer(NamedTuple):
    """One answer inside `buffer`, whose body is `buffer[start:end]`."""

    status: int
    buffer: bytearray
    start: int
    end: int
    keep_alive: bool


@dataclass(slots=True, eq=False)
class Connection:
    """A connection with at most one request in flight."""

    address: tuple[str, int]
    socket: Socket | None = None
    request: bytes | None = None
    due: float = 0.0
    sent: float = 0.0
    ended: float = 0.0
    quota: int = ENDLESS
    retried: bool = False
    _kept: bool = False
    _partial: bytearray | None = None
    _answer: Answer | None = None
    _unsent: memoryview | None = None

    def open(self) -> Socket:
        """Connect.

        Raises:
            OSError: The server cannot be reached.
        """
        made = socket.create_connection(self.address, timeout=CONNECT_TIMEOUT)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        self.socket = made
        self._kept = False
        return made

    def close(self) -> None:
        """Disconnect, and forget the request and the answer in flight."""
        if self.socket is not None:
            self.socket.close()
        self.socket = self._partial = self._answer = self._unsent = None

    def send(self, request: bytes) -> bool:
        """Send as much of a request as the socket takes; return whether all of it is sent.

        Raises:
            OSError: The connection is broken.
        """
        assert self.socket is not None
        self.request = request
        try:
            sent = self.socket.send(request)
        except BlockingIOError:
            sent = 0
        if sent == len(request):
            return True
        self._unsent = memoryview(request)[sent:]
        return False

    def send_rest(self) -> bool:
        """Send more of a request that was sent in part; return whether all of it is sent.

        Raises:
            OSError: The connection is broken.
        """
        assert self.socket is not None
        if self._unsent is not None:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except BlockingIOError:
                return False
            if self._unsent:
                return False
            self._unsent = None
        return True

    def receive(self, scratch: bytearray) -> Answer | None:
        """Read the bytes that have arrived; return the answer once it is complete.

        The answer is valid until `scratch` is used again.

        Raises:
            AnswerError: The bytes are not an answer, or the answer broke off.
            Stale: The server closed a kept connection before the answer began.
            OSError: The connection is broken.
        """
        assert self.socket is not None
        try:
            size = self.socket.recv_into(scratch)
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            if self._is_stale():
                raise Stale from error
            raise
        if not size:
            if self._is_stale():
                raise Stale
            raise AnswerError("the server closed the connection before the answer was whole")
        buffer = scratch
        if self._partial is not None:
            self._partial += memoryview(scratch)[:size]
            buffer, size = self._partial, len(self._partial)
        answer = self._answer or read_head(buffer, size)
        if answer is None or size < answer.end:
            self._partial = buffer if buffer is self._partial else scratch[:size]
            self._answer = answer and answer._replace(buffer=self._partial)
            return None
        if size > answer.end:
            raise AnswerError("the answer is longer than its Content-Length")
        self._partial = self._answer = None
        self._kept = True
        return answer

    def _is_stale(self) -> bool:
        return self._kept and self._partial is None


def head(address: tuple[str, int], route: str, headers: Mapping[str, str]) -> bytes:
    """Build the head of a POST request, up to the value of its Content-Length."""
    host, port = address
    lines = [f"POST {route} HTTP/1.1", f"Host: {f'[{host}]' if ':' in host else host}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Content-Length: "]).encode()


def with_body(head: bytes, content: bytes) -> bytes:
    """Return the bytes of a request: a head made by `head`, and a body."""
    return b"%b%d\r\n\r\n%b" % (head, len(content), content)


def read_head(buffer: bytearray, size: int) -> Answer | None:
    """Find the answer that begins in `buffer[:size]`, complete or not; None until its head is complete.

    Raises:
        AnswerError: The answer is not HTTP/1.1, or has no Content-Length.
    """
    end = buffer.find(b"\r\n\r\n", 0, size)
    if end < 0:
        return None
    status = _STATUS.match(buffer, 0, end)
    length = _LENGTH.search(buffer, 0, end + 2)
    if status is None or length is None:
        raise AnswerError("the answer is not HTTP/1.1 with a Content-Length")
    keep_alive = _CLOSE.search(buffer, 0, end + 2) is None
    return Answer(int(status[1]), buffer, end + 4, end + 4 + int(length[1]), keep_alive)
