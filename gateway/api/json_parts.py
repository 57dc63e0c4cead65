"""A scanner for large JSON texts: it separates strings from the bytes between them, without a parser.

It works on one piece at a time, so that it holds the interpreter's lock for at most a millisecond.
"""

import json
import re

import numpy as np
import orjson

from gateway.errors import InvalidInput, TooLarge

MOST_PARTS = 50_000
"""Limit on lists, objects and fields of one body; each costs more than a hundred plain bytes of JSON."""

MOST_ELEMENTS = 400_000
"""Limit on the elements of all lists of one body, mainly token ids; OpenAI accepts 300,000 per request."""

MOST_BETWEEN = 4 << 20
"""Limit on the bytes outside of strings; a run of spaces counts as one."""

_PIECE = 1 << 18
"""Bytes that one step processes."""

_ESCAPE = 12
"""Bytes of the longest escape sequence, a pair of surrogates."""

_BODY_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SPACES = re.compile(rb"[ \t\r\n]{2,}")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..")


def require_few_parts(body: bytes) -> None:
    """Refuse a body with so many small parts that building them takes far longer than reading the body.

    Raises:
        InvalidInput: the body has more than MOST_PARTS lists, objects and fields.
    """
    # Brackets and colons inside strings do not count. Strings rarely hold so many: count again without them.
    if _parts(body) > MOST_PARTS and _parts(_STRING.sub(b"", body)) > MOST_PARTS:
        raise _too_many_parts()


def end_of_string(content: bytearray, start: int) -> int:
    """Return the index of the quote that ends the string whose first character is at `start`, or -1."""
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
    """Counter for the bytes outside of a body's strings; it refuses a body with too many parts."""

    def __init__(self) -> None:
        self._parts = 0
        self._elements = 0
        self._bytes = 0

    def taken(self, part: memoryview) -> bytes:
        """Count the next part and return it with each run of spaces as one space.

        Raises:
            InvalidInput: the body has more than MOST_PARTS lists, objects and fields.
            TooLarge: the body has more than MOST_ELEMENTS elements, or MOST_BETWEEN bytes.
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
    """Decoder of JSON strings with a limit on the memory that the decoded strings take.

    Args:
        most: the limit in bytes. A single character beyond the Basic Multilingual Plane makes every character
            of its string take four bytes.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def text(self, content: memoryview) -> str | None:
        """Decode one string.

        Args:
            content: the bytes between the quotes: UTF-8 with JSON's escapes.

        Returns:
            The string; None if it has a lone surrogate, which is not Unicode text.

        Raises:
            InvalidInput: the content is not valid JSON.
            TooLarge: all strings decoded so far take more memory than the limit.
        """
        pieces: list[str] = []
        start, width, characters, counted = 0, 1, 0, 0
        while start < len(content):
            end = _cut(content, start)
            piece = _decoded(content[start:end])
            if piece is None:
                return None
            # In the joined string, each character takes as much as the widest one.
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
    """Return the bytes that Python needs for each character: 1, 2 or 4, depending on the largest one."""
    if text.isascii():
        return 1
    largest = int(np.frombuffer(text.encode("utf-32-le"), np.uint32).max())
    return 1 if largest < 0x100 else 2 if largest < 0x10000 else 4


def too_many(of_what: str, most: int) -> TooLarge:
    """Return the error for a body with too many of something, such as `elements`."""
    return TooLarge(f"the body has more than {most} {of_what}; send fewer inputs in one request")


def _too_many_parts() -> InvalidInput:
    # The message does not mention inputs, because another limit bounds them.
    return InvalidInput(f"the body has more than {MOST_PARTS} lists, objects and fields; no route takes that")


def _parts(json: bytes) -> int:
    return json.count(b"[") + json.count(b"{") + json.count(b":")


def _cut(content: memoryview, start: int) -> int:
    """Return the end of the piece from `start`: not inside a character, an escape or a surrogate pair."""
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
    """Return whether a backslash begins an escape, that is, is not itself escaped."""
    run = bytes(content[start : slash + 1])
    return (len(run) - len(run.rstrip(b"\\"))) % 2 == 1


def _decoded(piece: memoryview) -> str | None:
    """Decode one piece of a string; return None if it has a lone surrogate."""
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
    """Return whether a more lenient parser reads a string; it accepts a lone surrogate as a character."""
    try:
        json.loads(quoted)
    except ValueError:
        return False
    return True
