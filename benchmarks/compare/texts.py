"""Real texts of mixed length: WordNet's glosses, and passages joined of them. All are unique.

Everyone gets the same texts in the same order: all servers of one round, and the engine without a server.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

WORDNET = Path("/usr/share/wordnet")
SHORTEST_PASSAGE, LONGEST_PASSAGE = 100, 400
"""In tokens, special ones included."""
DISTINCT = 500
"""Texts of the load that repeats."""


class TextsMissing(Exception):
    """WordNet is not installed; the text says how to install it."""


@dataclass(frozen=True)
class Shares:
    """How many texts each load gets at most; a load ends early with its texts, never repeats one."""

    singles: int = 30_000
    bulk: int = 24_576
    latency: int = 8_000
    open_loop: int = 30_000
    warm_up: int = 8_192
    passages: int = 4_000
    passages_warm_up: int = 600


@dataclass(frozen=True)
class Texts:
    """The texts of one round, by load; no gloss is in two of them."""

    singles: list[str]
    bulk: list[str]
    latency: list[str]
    open_loop: list[str]
    warm_up: list[str]
    repeated: list[str]
    passages: list[str]
    passages_warm_up: list[str]


def read_glosses() -> list[str]:
    """Every gloss of WordNet once, about 117,000.

    Raises:
        TextsMissing: it is not installed.
    """
    files = sorted(WORDNET.glob("data.*"))
    if not files:
        raise TextsMissing(
            "WordNet's texts are missing; on Debian or Ubuntu: sudo apt-get install wordnet-base"
        )
    found: dict[str, None] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            gloss = line.partition(" | ")[2].strip()
            # Lines of the licence at the top begin with blanks.
            if gloss and not line.startswith(" "):
                found.setdefault(gloss)
    return list(found)


class Library:
    """All texts, shuffled anew for each round."""

    def __init__(self, tokenizer_file: Path, shares: Shares | None = None) -> None:
        self._shares = shares or Shares()
        self._glosses = read_glosses()
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        encodings = tokenizer.encode_batch(self._glosses, add_special_tokens=False)
        self._tokens = {
            gloss: len(encoding.ids) for gloss, encoding in zip(self._glosses, encodings, strict=True)
        }

    def round(self, number: int) -> Texts:
        """Texts of a round, the same for the same number."""
        shares, order = self._shares, random.Random(number)
        glosses = order.sample(self._glosses, len(self._glosses))
        passages = self._passages(order, shares.passages + shares.passages_warm_up)
        parts = [shares.singles, shares.bulk, shares.latency, shares.open_loop, shares.warm_up, DISTINCT]
        slices, start = [], 0
        for part in parts:
            slices.append(glosses[start : start + part])
            start += part
        assert start <= len(glosses)
        slices += [passages[: shares.passages], passages[shares.passages :]]
        return Texts(*slices)

    def _passages(self, order: random.Random, count: int) -> list[str]:
        """Glosses joined until they reach a length drawn evenly from the range; none is longer."""
        glosses = order.sample(self._glosses, len(self._glosses))
        passages: list[str] = []
        while len(passages) < count:
            target = order.randint(SHORTEST_PASSAGE, LONGEST_PASSAGE) - 2
            parts: list[str] = []
            tokens = 0
            while tokens < target and glosses:
                gloss = glosses.pop()
                more = self._tokens[gloss] + 1
                if tokens + more > LONGEST_PASSAGE - 2:
                    break
                parts.append(gloss)
                tokens += more
            if not parts:
                break
            passages.append(". ".join(parts))
        return passages
