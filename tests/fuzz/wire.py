"""Requests that are no HTTP, or HTTP that two servers could read differently, from a good one's parts."""

import random
from collections.abc import Callable

from tests.fuzz.mutations import mutated

CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTHS = (
    b"-1",
    b"+5",
    b"0x10",
    b"1e3",
    b"9" * 30,
    b"5, 6",
    b" ",
    b"\xb2",
    b"5 5",
    b"00",
    b"9223372036854775808",
)
SIZES = (b"-1", b"ffffffffffffffff", b"fffffffffffffffff", b"g", b"", b"0x5", b"5;a=\xff", b"5 5", b"5\n")
CODINGS = (
    b"xchunked",
    b"chunked, identity",
    b"gzip, chunked",
    b"\x0bchunked",
    b"chunked\r\n Transfer-Encoding: chunked",
)
LINES = (
    b"GET / HTTP/9.9",
    b"GET  /health HTTP/1.1",
    b"GET /health",
    b"\r\n\r\n",
    b"GET /\x00 HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01",
    b"PRI * HTTP/2.0\r\n\r\nSM",
    b"CONNECT a:1 HTTP/1.1",
    b"* * *",
)
NAMES = (b"X y", b"", b"X\x00", b"X\xff", b" X", b":", b"Content-Length ", b"\tX")
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    b"Expect: 100-continue\r\n\r\n"
)

Make = Callable[[random.Random, bytes, bytes], bytes]
"""Of a request's line with `Host`, and its body."""


def _length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def _chunks(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def _whole(head: bytes, body: bytes) -> bytes:
    return head + _length(body) + b"\r\n" + body


def _one_by_one(_rng: random.Random, head: bytes, body: bytes) -> bytes:
    parts = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return head + CHUNKED + b"\r\n" + parts + b"0\r\nTrailer: x\r\n\r\n"


KINDS: tuple[Make, ...] = (
    lambda rng, head, body: head + b"Content-Length: " + rng.choice(LENGTHS) + b"\r\n\r\n" + body,
    lambda _, head, body: head + _length(body) + b"Content-Length: 3\r\n\r\n" + body,
    lambda rng, head, body: head + _length(body) + CHUNKED + b"\r\n" + rng.choice((body, _chunks(body))),
    lambda rng, head, body: head + b"Transfer-Encoding: " + rng.choice(CODINGS) + b"\r\n\r\n" + _chunks(body),
    lambda rng, head, body: head + CHUNKED + b"\r\n" + rng.choice(SIZES) + b"\r\n" + body + b"\r\n0\r\n\r\n",
    _one_by_one,
    lambda rng, head, body: _whole(head, body)[: -rng.randrange(1, len(body) + 1)],
    lambda rng, head, body: _whole(
        head + b"X: " + b"v" * rng.choice((10_000, 70_000, 300_000)) + b"\r\n", body
    ),
    lambda rng, head, body: _whole(head, body) * rng.randint(2, 5),
    lambda rng, _head, _body: bytes(rng.randrange(256) for _ in range(rng.randint(1, 300))),
    lambda rng, _head, _body: rng.choice(LINES) + b"\r\nHost: a\r\n\r\n",
    lambda rng, head, body: _whole(head + rng.choice(NAMES) + b": 5\r\n", body),
    lambda _rng, head, _body: head.replace(b"POST", b"GET") + UPGRADE,
    lambda rng, head, body: mutated(rng, _whole(head, body)),
)


def made(rng: random.Random, head: bytes, body: bytes) -> bytes:
    """One of these."""
    return rng.choice(KINDS)(rng, head, body)
