"""The texts of all benchmarks: of mixed length and, without `--distinct`, all different.

A constant text flatters a server: the answer comes from the cache, and all texts of a batch have the same
length. The built-in texts are random words without a meaning. Their cost depends on their number of tokens,
which is distributed like that of real texts.
"""

import random
from collections.abc import Iterator
from itertools import accumulate, count
from math import log

from benchmarks.loadtest.selection import chosen, shuffled
from benchmarks.loadtest.settings import BenchmarkError, Settings
from benchmarks.loadtest.words import CONTENT_WORDS, FUNCTION_WORDS

LOG_NORMAL = {"glosses": (10, 0.5, 60), "definitions": (14, 0.557, 136)}
"""The words of a short text, log-normal: median, sigma and maximum. Definitions are as long as WordNet's."""

CAPTION_WORDS = (5, 20)
"""The words of an image's caption, uniform; each word is one token for CLIP too."""

PASSAGE_TOKENS = (100, 400)
"""The tokens of a passage, uniform, including the full stops and the two special tokens of BERT."""

_CODE_WORDS = 3
_SCATTER = 7_368_787
"""A prime larger than the number of words: multiplying by it scatters the serial numbers."""

_WORDS = (*FUNCTION_WORDS, *CONTENT_WORDS)
# The frequency of a function word follows its rank; together they make up about 45 % of a text.
_WEIGHTS = list(
    accumulate([200 / (rank + 3) for rank in range(len(FUNCTION_WORDS))] + [1.0] * len(CONTENT_WORDS))
)


class BuiltInTexts:
    """Texts by serial number. Two numbers never give the same text, not even in two processes."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind = kind
        self._random = random.Random(seed)
        self._origin = random.Random(seed).randrange(len(CONTENT_WORDS) ** _CODE_WORDS)

    def text(self, serial: int) -> str:
        """Return the text of one serial number."""
        if self._kind == "passages":
            return self._passage(serial)
        if self._kind == "captions":
            return self._words(serial, self._random.randint(*CAPTION_WORDS))
        median, sigma, longest = LOG_NORMAL[self._kind]
        length = round(self._random.lognormvariate(log(median), sigma))
        return self._words(serial, min(max(length, _CODE_WORDS), longest))

    def _code(self, serial: int) -> list[str]:
        """Return three words that no other serial number has, so that all texts differ."""
        base = len(CONTENT_WORDS)
        number = (serial + self._origin) * _SCATTER % base**_CODE_WORDS
        return [CONTENT_WORDS[number // base**place % base] for place in range(_CODE_WORDS)]

    def _words(self, serial: int, length: int) -> str:
        more = self._random.choices(_WORDS, cum_weights=_WEIGHTS, k=length - _CODE_WORDS)
        return " ".join([*self._code(serial), *more])

    def _passage(self, serial: int) -> str:
        left = self._random.randint(*PASSAGE_TOKENS) - 2
        sentences = []
        words = self._code(serial)
        while left > 1:
            length = min(self._random.randint(8, 24), left - 1)
            length += left - length == 2  # a single token left over could not be a sentence
            words += self._random.choices(_WORDS, cum_weights=_WEIGHTS, k=max(0, length - len(words)))
            sentences.append(" ".join(words).capitalize() + ".")
            left -= len(words) + 1
            words = []
        return " ".join(sentences)


def read_texts(settings: Settings) -> list[str]:
    """Return the lines of `--text-file` in random order, without empty ones.

    Raises:
        BenchmarkError: The file cannot be read, or has too few texts.
    """
    assert settings.text_file is not None
    try:
        lines = settings.text_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"--text-file {settings.text_file}: {error}") from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return shuffled(texts, settings, f"--text-file {settings.text_file}")


def texts(settings: Settings, process: int) -> Iterator[str]:
    """Return one process's texts, an endless row."""
    made = BuiltInTexts(settings.texts, settings.seed)
    if settings.text_file is not None:
        given = read_texts(settings)
    else:
        given = [made.text(serial) for serial in range(settings.distinct or 0)]
    endless = map(made.text, count(process, settings.processes))
    return chosen(given, endless, settings, process, random.Random(f"{settings.seed}/{process}"))
