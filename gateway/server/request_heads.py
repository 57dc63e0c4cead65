"""Strict checks of request heads by RFC 9112, so that a proxy in front cannot read a head differently.

llhttp, the parser, refuses most ambiguous heads. This module refuses those that llhttp lets through.
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
    """A request is refused: the rest of it is not read, and the connection is closed."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @classmethod
    def by(cls, error: Exception) -> "Refused":
        """Return the refusal for an error of the parser."""
        if isinstance(error.__context__, cls):
            return error.__context__
        known = not isinstance(error, HttpParserCallbackError)
        reason = f"this is no request by HTTP/1.1: {error}" if known else "the URL cannot be read"
        return cls(HTTPStatus.BAD_REQUEST, reason)

    def answer(self) -> tuple[Headers, bytes]:
        """Return the headers and the body of the response."""
        body = json.dumps({"detail": str(self)}).encode()
        length = (b"content-length", b"%d" % len(body))
        return [(b"content-type", b"application/json"), length, (b"connection", b"close")], body


class Turn:
    """An entry in a connection's pipeline that calls a function after the responses to earlier requests."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    async def run_asgi(self, _app: object) -> None:
        """Call the function; uvicorn calls this method when the earlier responses are complete."""
        self._act()


def check(version: str, url: bytes, headers: Headers) -> bool:
    """Check that there is only one way to read a head.

    Args:
        version: HTTP version, such as "1.1".
        url: Target of the request.
        headers: Header fields, names in lower case.

    Returns:
        True if the body is chunked.

    Raises:
        Refused: The head is invalid, or another server could read it differently.
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
    """Refuse repeats that llhttp accepts; it refuses a second Content-Length and a coding after chunked."""
    if names.count(b"host") > 1:
        raise Refused(HTTPStatus.BAD_REQUEST, "send one Host header")
    if names.count(b"transfer-encoding") > 1:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, _CODING)


def has_body(headers: Headers) -> bool:
    """Return whether a body follows the head.

    Clients wait for 100 (Continue) only with a body, and only in HTTP/1.1 (RFC 9110, 10.1.1).
    """
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" \t0"))
        for name, value in headers
    )


def without_upgrade(method: bytes, version: str, url: bytes, headers: Headers) -> bytes:
    """Return the head of a request without its Upgrade field, since upgrades are ignored (RFC 9110, 7.8)."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join((*lines, b"", b""))
