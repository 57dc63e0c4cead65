"""Regular expressions of a tokenizer, parsed far enough to find texts on which they backtrack.

`tokenizers` matches with Oniguruma, which tries one alternative after another. Patterns that can make it try
exponentially many are refused here. The others consist of a few simple sequences, from which `attacks`
derives texts to be timed.
"""

import itertools
import re
import unicodedata
from dataclasses import dataclass, replace

from tokenizers import Regex
from tokenizers.normalizers import Replace

from converters.errors import InvalidModel

_MOST_PATHS = 256
_MOST_TEXTS = 2000
_LONG = 16
"""Fixed repetitions of at least this count get their own texts; a text spells out at most this many."""
_WITHOUT_WIDTH = frozenset("bBAzZGK")
_LETTERS = frozenset("pPdDsSwWhHN")
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_NUMBER = re.compile(r"\\(?:x\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4}))")
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUP = re.compile(r"\?(?::|=|!|>|<=|<!|([im]*)(-[im]+)?([:)]))")
_NO_END = 1 << 30

KNOWN = frozenset(
    {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    }
)
"""Patterns of real models with repetitions inside repetitions that match any text in only one way."""


@dataclass(frozen=True)
class _Item:
    """One character of `members`, or `word` if it is not empty, repeated `least` to `most` times."""

    members: frozenset[str]
    least: int
    most: int
    word: str = ""

    def sample(self, within: frozenset[str]) -> str:
        """Return the word, or the most readable matching character, if possible one from `within`."""
        return self.word or min(self.members & within or self.members, key=_plainness)


_Path = tuple[_Item, ...]


def attacks(pattern: str) -> list[tuple[str, str, str]]:
    """Return texts for which the pattern may take long, as tuples (start, repeated unit, end).

    Raises:
        InvalidModel: The pattern is not supported, or may try exponentially many ways to match.
    """
    if pattern in KNOWN:
        return [("", unit, after) for unit in ("a", "a ", " ") for after in ("", "!")]
    found: set[tuple[str, str, str]] = set()
    for path in dict.fromkeys(_Parser(pattern).paths()):
        for place, item in enumerate(path):
            if item.most != item.least or item.most >= _LONG:
                found |= _attacks(path, place)
    if len(found) > _MOST_TEXTS:
        raise _refused(pattern, "is too complicated")
    return sorted(found)


def _attacks(path: _Path, place: int) -> set[tuple[str, str, str]]:
    long = path[place]
    units = {long.sample(long.members)}
    units |= {long.sample(other.members) for other in path}
    within = frozenset(long.word) or long.members
    before = "".join(item.sample(within) * max(1, min(item.least, _LONG)) for item in path[:place])
    everything = frozenset().union(*(item.members | frozenset(item.word) for item in path))
    others = sorted(_ALPHABET_SET - within, key=_plainness)[:1]
    others += sorted(_ALPHABET_SET - everything, key=_plainness)[:1]
    # The engine first looks for the required end anywhere in the text, so some texts contain it.
    others += [
        others[-1] + "".join(item.sample(item.members) * max(1, item.least) for item in path[place + 1 :])
    ]
    found = {(start, unit, after) for start in ("", before) for unit in units for after in ("", *others)}
    return found | {("", before + unit, after) for unit in units for after in ("", *others)}


class _Parser:
    """Parses a pattern into the sequences of items that it can match."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0
        self._flags = ""
        self._alphabet = _ALPHABET + _characters_of(pattern)

    def paths(self) -> list[_Path]:
        found = self._alternatives()
        if self._place < len(self._pattern):
            raise self._refused("is not understood")
        return found

    def _alternatives(self) -> list[_Path]:
        flags, found = self._flags, self._sequence()
        while self._take("|"):
            found += self._sequence()
        self._flags = flags
        return self._few(found)

    def _sequence(self) -> list[_Path]:
        found: list[_Path] = [()]
        while self._place < len(self._pattern) and self._pattern[self._place] not in "|)":
            parts = self._repeated(self._atom())
            found = self._few([before + part for before, part in itertools.product(found, parts)])
        return found

    def _few(self, paths: list[_Path]) -> list[_Path]:
        # Equal alternatives are all kept, because the engine tries each of them in a repetition.
        if len(paths) > _MOST_PATHS:
            raise self._refused("is too complicated")
        return paths

    def _atom(self) -> list[_Path]:
        """Parse the next element and return its alternatives; a zero-width element gives an empty path."""
        start = self._place
        sign = self._pattern[start]
        self._place += 1
        if sign == "(":
            return self._group()
        if sign == "[":
            self._skip_class()
        elif sign == "\\":
            return self._escape(start)
        elif sign in "^$":
            return [()]
        elif sign in "*+?":
            raise self._refused("is not understood")
        elif sign != ".":
            return [(self._item(re.escape(sign) if sign.isascii() else sign),)]
        return [(self._item(self._pattern[start : self._place]),)]

    def _group(self) -> list[_Path]:
        looks, flags = False, self._flags
        if self._at() == "?":
            kind = _GROUP.match(self._pattern, self._place)
            if kind is None:
                raise self._refused("has a group of a kind that is not supported")
            self._place = kind.end()
            looks = kind[0] in ("?=", "?!", "?<=", "?<!")
            if kind[3] is not None:
                self._flags = "".join(sorted(set(self._flags + kind[1]) - set(kind[2] or "")))
            if kind[3] == ")":
                return [()]
        found = self._alternatives()
        self._flags = flags
        if not self._take(")"):
            raise self._refused("is not understood")
        # A lookaround costs as much as a match, but consumes no characters.
        return [*found, ()] if looks else found

    def _escape(self, start: int) -> list[_Path]:
        letter = self._at()
        number = _NUMBER.match(self._pattern, start)
        if number is not None:
            self._place = number.end()
        elif letter in ("p", "P"):
            end = self._pattern.find("}", self._place)
            self._place = end + 1 if end > 0 else len(self._pattern)
        elif letter in _WITHOUT_WIDTH:
            self._place += 1
            return [()]
        elif not letter or (letter.isalnum() and letter not in _LETTERS and letter not in _CONTROLS):
            raise self._refused(f"uses \\{letter}, which is not supported")
        else:
            self._place += 1
        return [(self._item(self._pattern[start : self._place]),)]

    def _skip_class(self) -> None:
        depth = 1
        self._take("^")
        self._take("]")
        while depth and self._place < len(self._pattern):
            sign = self._pattern[self._place]
            self._place += 2 if sign == "\\" else 1
            depth += {"[": 1, "]": -1}.get(sign, 0)
        if depth:
            raise self._refused("is not understood")

    def _repeated(self, paths: list[_Path]) -> list[_Path]:
        """Apply the quantifier that follows the paths, if there is one."""
        count = _COUNT.match(self._pattern, self._place)
        if count is not None and (count[1] or count[3]):
            least = int(count[1] or 0)
            most = least if not count[2] else int(count[3] or _NO_END)
            self._place = count.end()
            self._take("?")
        elif self._at() in ("*", "+", "?"):
            least, most = {"*": (0, _NO_END), "+": (1, _NO_END), "?": (0, 1)}[self._at()]
            self._place += 1
            # Lazy or possessive. After a count in braces, a plus would repeat the repetition instead.
            _ = self._take("?") or self._take("+")
        else:
            return paths
        if self._at() in ("*", "+", "?") or _COUNT.match(self._pattern, self._place):
            raise self._refused("repeats a repetition, which can take time without end")
        if most <= 1:
            return paths if least else [*paths, ()]
        return [self._many(paths, least, most)]

    def _many(self, paths: list[_Path], least: int, most: int) -> _Path:
        """Return one item for a repetition whose content can be matched in only one way."""
        items = [item for path in paths for item in path]
        if not items:
            return ()
        if () in paths or any(item.least != item.most for item in items):
            raise self._refused("repeats a repetition, which can take time without end")
        if len(items) == 1 and items[0].most == 1:
            return (replace(items[0], least=least, most=most),)
        starts = [path[0].members | frozenset(path[0].word[:1]) for path in paths]
        if sum(map(len, starts)) > len(frozenset().union(*starts)):
            raise self._refused(
                "repeats what can be matched in several ways, which can take time without end"
            )
        if all(len(path) == 1 and path[0].most == 1 for path in paths):
            return (_Item(frozenset().union(*starts), least, most),)
        word = "".join(item.sample(item.members) * min(item.most, _LONG) for item in paths[0])
        return (_Item(frozenset(), least, most, word),)

    def _item(self, source: str) -> _Item:
        """Return an item for a character class; the engine itself decides which characters it contains."""
        flagged = f"(?{self._flags}:{source})" if self._flags else source
        try:
            others = frozenset(Replace(Regex(flagged), "").normalize_str(self._alphabet))
        except Exception as error:
            raise self._refused("is not understood") from error
        members = frozenset(self._alphabet) - others
        if not members:
            raise self._refused("names characters that are nowhere to be found")
        return _Item(members, 1, 1)

    def _at(self) -> str:
        return self._pattern[self._place : self._place + 1]

    def _take(self, sign: str) -> bool:
        if self._at() != sign:
            return False
        self._place += 1
        return True

    def _refused(self, why: str) -> InvalidModel:
        return _refused(self._pattern, why)


def _refused(pattern: str, why: str) -> InvalidModel:
    shown = pattern if len(pattern) <= 80 else pattern[:77] + "..."
    return InvalidModel(f"the tokenizer's regular expression {shown!a} {why}")


def _characters_of(pattern: str) -> str:
    """Return the characters that a pattern spells out and their neighbours, because ranges end there."""
    numbers = {ord(sign) for sign in pattern}
    numbers |= {int(next(filter(None, found)), 16) for found in _NUMBER.findall(pattern)}
    near = {number + step for number in numbers for step in (-1, 0, 1)}
    return "".join(chr(number) for number in sorted(near) if 0 <= number < 0x110000 and not _is_half(number))


def _is_half(number: int) -> bool:
    return 0xD800 <= number < 0xE000


def _plainness(sign: str) -> tuple[bool, bool, str]:
    """Return a sort key that puts readable characters first."""
    return (not sign.isascii(), not sign.isprintable(), sign)


def _alphabet() -> str:
    """Return samples of all kinds of characters: all of ASCII and Latin, a few per category and block."""
    found, seen = list(range(0x250)), dict.fromkeys(("Cn",), 9)
    for number in itertools.chain(range(0x250, 0x3400), range(0x3400, 0x110000, 61)):
        category = unicodedata.category(chr(number))
        seen[category] = seen.get(category, 0) + 1
        if not _is_half(number) and (seen[category] < 9 or number % 17 == 0):
            found.append(number)
    return "".join(map(chr, found))


_ALPHABET = _alphabet()
_ALPHABET_SET: frozenset[str] = frozenset(_ALPHABET)
