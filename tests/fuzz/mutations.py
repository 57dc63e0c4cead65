"""Damage to bytes and to JSON. Everything is drawn from a `random.Random`, so a case can be made again."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Change = Callable[[random.Random, bytearray], None]

_EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
_NUMBERS = (*_EDGES, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def _flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _number(rng: random.Random, data: bytearray) -> None:
    """A length or a size that is not the real one."""
    form = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    width = struct.calcsize(form)
    place = rng.randrange(len(data))
    value = rng.choice(_NUMBERS) % (1 << 8 * width)
    data[place : place + width] = struct.pack(form, value)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(rng: random.Random, data: bytearray) -> None:
    start, length = _slice(rng, data)
    del data[start : start + length]


def _repeat(rng: random.Random, data: bytearray) -> None:
    start, length = _slice(rng, data)
    data[start:start] = data[start : start + length]


def _blank(rng: random.Random, data: bytearray) -> None:
    start, length = _slice(rng, data)
    data[start : start + length] = bytes([rng.choice((0, 0x20, 0xFF))]) * length


def _insert(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data))
    data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))


def _slice(rng: random.Random, data: bytearray) -> tuple[int, int]:
    return rng.randrange(len(data)), rng.randint(1, 64)


_CHANGES: tuple[Change, ...] = (_flip, _set, _set, _number, _number, _cut, _remove, _repeat, _blank, _insert)


def mutated(rng: random.Random, content: bytes, most: int = 6) -> bytes:
    """The bytes with one to `most` changes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        if data:
            rng.choice(_CHANGES)(rng, data)
    return bytes(data)


def damaged(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """One of the seeds, mutated."""
    return st.builds(mutated, st.randoms(use_true_random=False), st.sampled_from(seeds))


def one_line(error: Exception) -> None:
    """An error's text becomes an answer or a line of the log."""
    text = str(error)
    assert "\n" not in text
    text.encode()


def deep(levels: int, opening: str = "[", closing: str = "]") -> str:
    """JSON that is nothing but brackets."""
    return opening * levels + closing * levels


WRONG: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, 1e39,
    "", "0", "a", "null", "\0", "../x", "/etc/passwd", "a/b", "é🙂", "\U0010ffff", "x" * 5000, "%00", "a\n",
    [], [[]], [None], [""], [0], [True], ["a", 1], [[[["a"]]]], [[], [1]], {}, {"": ""}, {"a": {"b": [1]}},
)  # fmt: skip
"""Values that somebody did not expect."""

RAW = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 400, "1" * 5000, "0x10", "01", "+1", ".5", "1.",
    "'a'", '"\\ud800"', '"\\udc00\\ud800"', '"\\x"', '"\t"', '"\\u00"', '"', "tru", "{", "[", "]", ",", "",
    deep(200), deep(3000), deep(100_000), deep(500, '{"a":', "}").replace(":}", ":1}"), "/*c*/1", "1,",
)  # fmt: skip
"""What stands in the place of a value and is no JSON, or JSON that parsers disagree about."""


def wrong(rng: random.Random) -> Any:  # noqa: ANN401 - a JSON document
    """One of them, to be changed further."""
    return copy.deepcopy(rng.choice(WRONG))


def places(value: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - a JSON document
    """Every (container, key) in a document."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += [(value, key), *places(part)]
    return found


def changed(rng: random.Random, document: Any, most: int = 3) -> Any:  # noqa: ANN401 - a JSON document
    """A copy with one to `most` parts replaced, removed, renamed, repeated or added."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, most)):
        where = places(document)
        if not where or rng.random() < 0.03:
            return wrong(rng)
        container, key = rng.choice(where)
        kind = rng.randrange(8)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.extend([container[key]] * rng.choice((1, 10, 100)))
        elif kind == 1:
            container[rng.choice(("", "a", f"{key} ", str(key).upper(), "__class__"))] = container[key]
        elif kind == 2:
            container[key] = [container[key]]
        elif kind == 3:
            container[key] = {"a": container[key]}
        else:
            container[key] = wrong(rng)
    return document


_MARK = "\u2603mark"


def broken_json(rng: random.Random, document: Any) -> bytes:  # noqa: ANN401 - a JSON document
    """A changed document as bytes: sometimes with raw text in it, twice the same key, or damaged bytes."""
    document = changed(rng, document)
    kind = rng.randrange(6)
    where = places(document)
    if kind == 0 and where:
        container, key = rng.choice(where)
        container[key] = _MARK
        return json.dumps(document, ensure_ascii=False).replace(f'"{_MARK}"', rng.choice(RAW)).encode()
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if kind == 1 and isinstance(document, dict) and document:
        key = rng.choice(list(document))
        again = json.dumps({key: wrong(rng)})[1:-1]
        text = "{" + again + "," + text[1:] if rng.random() < 0.5 else text[:-1] + "," + again + "}"
    content = text.encode(errors="surrogatepass")
    return mutated(rng, content) if kind == 2 and content else content


def damaged_json(*documents: Any) -> st.SearchStrategy[bytes]:  # noqa: ANN401 - JSON documents
    """One of the documents, broken."""
    return st.builds(broken_json, st.randoms(use_true_random=False), st.sampled_from(documents))
