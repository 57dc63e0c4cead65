"""Requests whose bodies hide others, under all headers that say where a body ends; what is due to each."""

import hashlib
import random
import re
from dataclasses import dataclass, field

Fate = str
"""ok: answered. last: answered, and the connection ends. early: answered, it may end. refused: it ends."""

UPGRADES = (
    *(b"h2c", b"websocket", b"TLS/1.2", b"HTTP/2.0", b"IRC/6.9, RTA/x11", b"foo", b"H2C"),
    *(b"websocket, h2c", b""),
)
CONNECTIONS = (
    *(b"upgrade", b"Upgrade, HTTP2-Settings", b"keep-alive, Upgrade", b"keep-alive", b"UPGRADE"),
    *(b"close", b"close, upgrade", b"Upgrade , Close", b"upgrade\r\nConnection: keep-alive"),
)
EXPECTS = (b"100-continue", b"100-Continue")
CODINGS = (
    *(b"chunked, identity", b"identity", b"gzip, chunked", b"xchunked", b"chunked;a=b", b'"chunked"'),
    *(b"chunked, chunked", b"chunked\r\nTransfer-Encoding: chunked", b"\x0bchunked", b",chunked"),
    *(b"chunked,", b"\r\n chunked", b"", b"identity\r\nTransfer-Encoding: chunked"),
)
LENGTHS = (
    *(b"%d\r\nContent-Length: %d", b"%d, %d", b"+%d", b"-%d", b"0x%d", b"\r\n %d", b"%d_0", b"", b"%d 1"),
    *(b"%d\r\nContent-Length: 0", b"9" * 30),
)
TRAILERS = (b"X: y", b"Upgrade: h2c\r\nConnection: upgrade", b"X-Mark: another\r\nExpect: 100-continue")
BAD_CHUNKS = (
    *(b"%x\n%b\r\n0\r\n\r\n", b"%x\r\n%b\n0\r\n\r\n", b"%x\r\n%b0\r\n\r\n", b"0x%x\r\n%b\r\n0\r\n\r\n"),
    *(
        b" %x\r\n%b\r\n0\r\n\r\n",
        b"%x \r\n%b\r\n0\r\n\r\n",
        b"%x;a\n%b\r\n0\r\n\r\n",
        b"-%x\r\n%b\r\n0\r\n\r\n",
    ),
    *(b"%x\r\n%b\r\n0\r\nContent-Length: 3\r\n\r\n", b"ffffffffffffffffffff%x\r\n%b\r\n0\r\n\r\n"),
)
BAD_LINES = (
    *(b"X: a\nY: b", b"X : a", b" X: a", b"X: a\r\n b", b"X", b": a", b"X: a\0", b"X: a\rY: b", b"X\xff: a"),
)
NO_REQUESTS = (
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n"),
    *(
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        b"POST\t/ HTTP/1.1\r\n\r\n",
    ),
    *(b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"\0", b"GET / HTTP/0.9\r\n\r\n"),
)


@dataclass(frozen=True)
class Asked:
    """One request, and what becomes of it."""

    path: str
    method: str
    body: bytes
    fate: Fate


@dataclass
class Case:
    """What is sent on one connection. pieces: each by itself."""

    asked: list[Asked] = field(default_factory=list)
    content: bytes = b""
    pieces: list[bytes] = field(default_factory=list)


def digest(body: bytes) -> str:
    """As the application answers, of what it read."""
    return f"{len(body)}-{hashlib.sha256(body).hexdigest()[:16]}"


def made(rng: random.Random, mark: str, between: bytes = b"\r\n") -> Case:
    """One to three requests, marked, and one that ends the connection; cut anywhere. between: some."""
    case = Case()
    for number in range(rng.choice((1, 1, 2, 3))):
        one, content = _request(rng, f"{mark}-{number}")
        case.asked.append(one)
        case.content += content
        if rng.random() < 0.05:
            case.content += between
    case.asked.append(Asked(f"/end/{mark}", "GET", b"", "last"))
    case.content += b"GET /end/%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % mark.encode()
    case.pieces = _cut(rng, case.content)
    return case


def _cut(rng: random.Random, content: bytes) -> list[bytes]:
    edges = [match.end() for match in re.finditer(rb"\r\n\r\n", content[:5000])]
    kind = rng.random()
    if kind < 0.25:
        cuts = []
    elif kind < 0.5:
        cuts = [max(0, rng.choice(edges) + rng.randint(-3, 3))]
    elif kind < 0.97:
        cuts = sorted(rng.randrange(len(content)) for _ in range(rng.randint(1, 4)))
    else:
        start = rng.randrange(len(content))
        cuts = list(range(start, min(start + 40, len(content))))
    return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True) if a < b]


def _hidden(rng: random.Random, mark: str) -> bytes:
    """A body that is a request, or looks like the rest of one."""
    inner = b"GET /hidden/%s HTTP/1.1\r\nHost: a\r\n\r\n" % mark.encode()
    kind = rng.randrange(8)
    if kind == 0:
        return b""
    if kind == 1:
        return b'{"text": "a dog"}'
    if kind == 2:
        return b"0\r\n\r\n" + inner
    if kind == 3:
        post = b"POST /hidden/%s HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n" % mark.encode()
        return inner + post
    if kind == 4:
        return b"\r\n" * rng.choice((1, 50, 5000)) + inner
    if kind == 5 and rng.random() < 0.1:
        return b"\r\n" * 150_000 + inner
    return inner


def _in_chunks(rng: random.Random, body: bytes) -> bytes:
    size = rng.choice((1, 7, 1000, 100_000)) if len(body) < 1000 else 50_000
    extension = rng.choice((b"", b"", b";a=b", b';a="b;c"'))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    content = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    trailer = rng.choice(TRAILERS) + b"\r\n" if rng.random() < 0.2 else b""
    return content + b"0\r\n" + trailer + b"\r\n"


def _request(rng: random.Random, mark: str) -> tuple[Asked, bytes]:
    if rng.random() < 0.02:
        return Asked(f"/none/{mark}", "GET", b"", "refused"), rng.choice(NO_REQUESTS)
    early = rng.random() < 0.1
    path = f"/{'early' if early else 'm'}/{mark}"
    method = rng.choice(("POST", "POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "DELETE"))
    # HAProxy lets bodies of HTTP/1.0 through with these only.
    old = method in ("POST", "PUT") and rng.random() < 0.1
    version, fate = (b"1.0", "last") if old else (b"1.1", "ok")
    lines = [b"Host: a", b"X-Mark: " + mark.encode()]
    if rng.random() < 0.6:
        lines.append(b"Upgrade: " + rng.choice(UPGRADES))
        # Without it HAProxy refuses one to WebSocket.
        lines.append(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    if rng.random() < 0.6:
        connection = rng.choice(CONNECTIONS)
        lines.append(b"Connection: " + connection)
        fate = "last" if b"close" in connection.lower() else fate
    expects = rng.random() < 0.2
    if expects:
        lines.append(b"Expect: " + rng.choice(EXPECTS))
    body = _hidden(rng, mark)
    content, fate = _framed(rng, lines, body, version, fate)
    if rng.random() < 0.04:
        fate = _spoilt(rng, lines, version, fate)
    elif rng.random() < 0.005:
        # Without a body: HAProxy knows of none, and takes it for a request that is the client's own.
        head = b"CONNECT %s HTTP/1.1\r\nHost: a\r\n\r\n" % rng.choice((b"a:80", path.encode()))
        return Asked(path, "CONNECT", b"", "refused"), head
    if early and expects and fate == "ok":
        fate = "early"
    rng.shuffle(lines)
    head = b"\r\n".join((b"%s %s HTTP/%s" % (method.encode(), path.encode(), version), *lines, b"", b""))
    return Asked(path, method, body if content else b"", fate), head + content


def _spoilt(rng: random.Random, lines: list[bytes], version: bytes, fate: Fate) -> Fate:
    """What becomes of a request with one line more that no client sends, or without the right Host."""
    kind = rng.randrange(4)
    if kind == 0:
        lines[0] = b"X-Host: a"
        return "refused" if version == b"1.1" else fate
    if kind == 1:
        lines[0] = rng.choice((b"Host: a\r\nHost: b", b"Host: a\r\nHost: a", b"Host: a b"))
    else:
        lines.append(rng.choice(BAD_LINES))
    return "refused"


def _framed(
    rng: random.Random, lines: list[bytes], body: bytes, version: bytes, fate: Fate
) -> tuple[bytes, Fate]:
    """The body as it is sent, and the headers that say so, right ones mostly."""
    kind = rng.random()
    if kind < 0.1:
        return b"", fate
    length = b"%d" % len(body)
    if kind < 0.5:
        lines.append(b"Content-Length: " + length)
        return body, fate
    chunked = _in_chunks(rng, body)
    if kind < 0.85:
        lines.append(b"Transfer-Encoding: " + rng.choice((b"chunked", b"chunked", b"Chunked")))
        return chunked, "refused" if version == b"1.0" else fate
    if kind < 0.88:
        lines += [b"Transfer-Encoding: chunked", b"Content-Length: " + rng.choice((length, b"0", b"5"))]
    elif kind < 0.92:
        lines.append(b"Transfer-Encoding: " + rng.choice(CODINGS))
    elif kind < 0.96:
        form = rng.choice(LENGTHS)
        lines.append(b"Content-Length: " + form.replace(b"%d", length))
        return body, "refused"
    else:
        lines.append(b"Transfer-Encoding: chunked")
        form = rng.choice(BAD_CHUNKS)
        body = body or b"a"
        return form.replace(b"%x", b"%x" % len(body)).replace(b"%b", body), "refused"
    return chunked, "refused"
