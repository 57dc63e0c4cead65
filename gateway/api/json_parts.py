"""The parts of a large JSON text: its strings and what stands between them, without a parser.

All of it works on a piece at a time, so that the interpreter's lock is held for a millisecond and no longer.
"""

import json
import re

import numpy as np
import orjson

from gateway.errors import InvalidInput, TooLarge

MOST_PARTS = 50_000
"""Lists, objects and fields of objects in one body; each costs more than a hundred bytes that say so."""

MOST_ELEMENTS = 400_000
"""Elements of all lists of one body, token ids above all; OpenAI takes 300,000 in a request."""

MOST_BETWEEN = 4 << 20
"""Bytes outside of strings, spaces not counted."""

_PIECE = 1 << 18
"""Bytes that are looked at in one go."""

_ESCAPE = 12
"""Bytes of the longest escape, of a pair of surrogates."""

_BODY_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SPACES = re.compile(rb"[ \t\r\n]{2,}")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..")


def require_few_parts(body: bytes) -> None:
    """Refuse a body of so many small parts that to make them takes far longer than to read it.

    Raises:
        InvalidInput: it is one.
    """
    # Those of the texts do not count, and rarely are so many.
    if _parts(body) > MOST_PARTS and _parts(_STRING.sub(b"", body)) > MOST_PARTS:
        raise _too_many_parts()


def end_of_string(content: bytearray, start: int) -> int:
    """Where the quote is that ends the string whose first character is at `start`; -1 for none."""
    first = content.find(b'"', start)
    if first < 0 or content[first - 1] != 0x5C:
        return first
    position, size = start, len(content)
    while position < size:
        match = _BODY_OF_STRING.match(content, position, min(position + _PIECE, size))
        assert match is not None
        end = match.end()
        if end < size and content[end] == 0x22:
            return end
        if end == position:
            break
        position = end
    return -1


class Between:
    """What stands outside of a body's strings, as far as it has been read."""

    def __init__(self) -> None:
        self._parts = 0
        self._elements = 0
        self._bytes = 0

    def taken(self, part: memoryview) -> bytes:
        """The next of it, with one space for many.

        Raises:
            InvalidInput, TooLarge: it is more than any request needs.
        """
        if len(part) <= 2:
            self._elements += 1
            self._bytes += len(part)
            short = bytes(part)
            self._parts += _parts(short)
        else:
            short = b"".join(
                self._piece(bytes(part[start : start + _PIECE])) for start in range(0, len(part), _PIECE)
            )
        self._require_few()
        return short

    def _piece(self, piece: bytes) -> bytes:
        piece = _SPACES.sub(b" ", piece)
        self._bytes += len(piece)
        self._elements += piece.count(b",")
        self._parts += _parts(piece)
        self._require_few()
        return piece

    def _require_few(self) -> None:
        if self._parts > MOST_PARTS:
            raise _too_many_parts()
        if self._elements > MOST_ELEMENTS:
            raise too_many("elements", MOST_ELEMENTS)
        if self._bytes > MOST_BETWEEN:
            raise TooLarge(
                f"the body has more than {MOST_BETWEEN} bytes outside of strings; send fewer inputs"
            )


class Texts:
    """Makes strings of the texts of JSON strings.

    most: bytes that they may take in memory: one character beyond the Basic Multilingual Plane makes four
    bytes of each character of its string.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def text(self, content: memoryview) -> str | None:
        """The string; None where half of a surrogate pair stands alone, which is no Unicode text.

        content: between the quotes, in UTF-8, with JSON's escapes.

        Raises:
            InvalidInput: it is no JSON.
            TooLarge: with those before, the strings take too much memory.
        """
        pieces: list[str] = []
        start, width, characters, counted = 0, 1, 0, 0
        while start < len(content):
            end = _cut(content, start)
            piece = _decoded(content[start:end])
            if piece is None:
                return None
            # Joined, each character takes as much as the widest.
            width = max(width, _width(piece))
            pieces.append(piece)
            characters += len(piece)
            self._take(width * characters - counted)
            counted, start = width * characters, end
        return pieces[0] if len(pieces) == 1 else "".join(pieces)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge("the body's strings take too much memory; send fewer or shorter inputs")


def _width(text: str) -> int:
    """Bytes that Python takes for each character: 1, 2 or 4, by the largest of them."""
    if text.isascii():
        return 1
    largest = int(np.frombuffer(text.encode("utf-32-le"), np.uint32).max())
    return 1 if largest < 0x100 else 2 if largest < 0x10000 else 4


def too_many(of_what: str, most: int) -> TooLarge:
    """The error for a body of too many parts."""
    return TooLarge(f"the body has more than {most} {of_what}; send fewer inputs in one request")


def _too_many_parts() -> InvalidInput:
    # No list of inputs: of these there is another limit.
    return InvalidInput(f"the body has more than {MOST_PARTS} lists, objects and fields; no route takes that")


def _parts(json: bytes) -> int:
    return json.count(b"[") + json.count(b"{") + json.count(b":")


def _cut(content: memoryview, start: int) -> int:
    """Where the piece that begins at `start` ends: within no character, no escape, no pair of them."""
    end = start + _PIECE
    if end >= len(content):
        return len(content)
    for _ in range(3):
        if content[end] & 0xC0 == 0x80:
            end -= 1
    last = bytes(content[end - _ESCAPE : end]).rfind(b"\\")
    if last < 0:
        return end
    slash = end - _ESCAPE + last
    if not _begins_escape(content, start, slash):
        return slash + 1
    before = slash - 6
    if (
        before > start
        and _HIGH_SURROGATE.fullmatch(content[before:slash])
        and _begins_escape(content, start, before)
    ):
        return before
    return slash


def _begins_escape(content: memoryview, start: int, slash: int) -> bool:
    """Whether a backslash is not itself escaped."""
    run = bytes(content[start : slash + 1])
    return (len(run) - len(run.rstrip(b"\\"))) % 2 == 1


def _decoded(piece: memoryview) -> str | None:
    """The string of a piece of a text, None where half of a surrogate pair stands alone."""
    plain = bytes(piece)
    if b"\\" not in plain and int(np.frombuffer(piece, np.uint8).min()) >= 0x20:
        try:
            return plain.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput("Invalid JSON: invalid unicode code point") from error
    quoted = b'"%s"' % plain
    try:
        text: str = orjson.loads(quoted)
    except orjson.JSONDecodeError as error:
        if _is_read(quoted):
            return None
        raise InvalidInput("Invalid JSON: a string with a control character or an unknown escape") from error
    return text


def _is_read(quoted: bytes) -> bool:
    """Whether a more lenient parser reads a string: it takes half a surrogate pair for a character."""
    try:
        json.loads(quoted)
    except ValueError:
        return False
    return True
