"""Heads of requests by the letter of RFC 9112, so that a proxy in front cannot read one differently.

llhttp, which parses them, refuses most of what is ambiguous; this is what it lets through.
"""

import json
import re
from collections.abc import Callable
from http import HTTPStatus

from httptools import HttpParserCallbackError

Headers = list[tuple[bytes, bytes]]

_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+(?:%[\w.~-]+)?\])(?::\d*)?[ \t]*")

_CODING = "the only Transfer-Encoding here is chunked"


class Refused(Exception):
    """A request that is not read on; the connection ends with it."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @classmethod
    def by(cls, error: Exception) -> "Refused":
        """That for which the parser gave up."""
        if isinstance(error.__context__, cls):
            return error.__context__
        known = not isinstance(error, HttpParserCallbackError)
        reason = f"this is no request by HTTP/1.1: {error}" if known else "the URL cannot be read"
        return cls(HTTPStatus.BAD_REQUEST, reason)

    def answer(self) -> tuple[Headers, bytes]:
        """Headers and body."""
        body = json.dumps({"detail": str(self)}).encode()
        length = (b"content-length", b"%d" % len(body))
        return [(b"content-type", b"application/json"), length, (b"connection", b"close")], body


class Turn:
    """Stands among the requests of a connection that wait for the answers before theirs."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    async def run_asgi(self, _app: object) -> None:
        """Act: it is its turn."""
        self._act()


def check(version: str, url: bytes, headers: Headers) -> bool:
    """Whether the body comes in chunks, once it is sure that there is one reading of this head.

    Raises:
        Refused: there could be two.
    """
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated([name for name, _ in headers])
    if version != "1.1" and version != "1.0":
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
    host = fields.get(b"host")
    if host is None:
        if version == "1.1":
            raise Refused(HTTPStatus.BAD_REQUEST, "HTTP/1.1 needs a Host header")
    elif not _HOST.fullmatch(host):
        raise Refused(HTTPStatus.BAD_REQUEST, "the Host header is no host with an optional port")
    if b"#" in url:
        raise Refused(HTTPStatus.BAD_REQUEST, "a URL is sent without its #fragment")
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        return False
    if version == "1.0":
        raise Refused(HTTPStatus.BAD_REQUEST, "Transfer-Encoding needs HTTP/1.1")
    if coding.rstrip(b" ").lower() != b"chunked":
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, _CODING)
    return True


def _check_repeated(names: list[bytes]) -> None:
    """Refuse what llhttp does not: it sees a second Content-Length, and a coding after chunked."""
    if names.count(b"host") > 1:
        raise Refused(HTTPStatus.BAD_REQUEST, "send one Host header")
    if names.count(b"transfer-encoding") > 1:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, _CODING)


def has_body(headers: Headers) -> bool:
    """Whether a body comes: without one, and before HTTP/1.1, nobody waits for 100 (RFC 9110, 10.1.1)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" \t0"))
        for name, value in headers
    )


def without_upgrade(method: bytes, version: str, url: bytes, headers: Headers) -> bytes:
    """The head of a request whose upgrade is ignored (RFC 9110, 7.8), written anew."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join((*lines, b"", b""))
