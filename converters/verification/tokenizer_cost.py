"""Check that a tokenizer's time and memory stay in proportion to the text, whoever wrote its file.

    python -m converters.verification.tokenizer_cost < PATTERNS

runs the timed part in a process that can be killed. Does not import torch.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

from converters.errors import InvalidModel
from converters.verification.regexes import attacks

SLOW_CHARACTERS = 8192
"""Longest text, in characters, for a tokenizer whose time grows faster than the text."""

_TIMEOUT = 60.0
_MOST_SECONDS = {SLOW_CHARACTERS // 32: 0.03, SLOW_CHARACTERS // 4: 0.3, SLOW_CHARACTERS: 3.0}
"""CPU seconds allowed for a text, by its length in characters: so long a gateway thread may be blocked.

The shorter texts find patterns whose time grows faster than quadratically: the longest would take minutes.
"""
_IN_PROPORTION = {factor * SLOW_CHARACTERS: factor * 0.05 for factor in (1, 2, 4, 8)}
"""The same for time that grows linearly with the text; patterns of real models take a quarter of it."""
_WORST = 5

_LONGEST_WORD = 1000
_LONGEST_TOKEN = 1024
_LARGEST_GROWTH = 64


def most_characters(tokenizer: Tokenizer) -> int | None:
    """Return the length, in characters, of the longest text a tokenizer may be given; None for no limit.

    Raises:
        InvalidModel: A short text can block the tokenizer for seconds, or fill the memory.
    """
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model.get("max_input_chars_per_word", 0) > _LONGEST_WORD:
        raise InvalidModel(
            f"the tokenizer takes words of {model['max_input_chars_per_word']} characters "
            f"(max_input_chars_per_word), whose time grows with their cube; at most {_LONGEST_WORD}"
        )
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=0)
    if longest > _LONGEST_TOKEN:
        raise InvalidModel(f"the tokenizer has a token of {longest} characters; at most {_LONGEST_TOKEN}")
    parts = [spec.get(name) for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor")]
    for part in parts:
        growth = 1
        for replaced in _inside(part, "Replace"):
            growth *= max(1, len(replaced["content"].encode()))
        if growth > _LARGEST_GROWTH:
            raise InvalidModel(
                f"the tokenizer makes a text {growth} times as long; at most {_LARGEST_GROWTH}"
            )
    patterns = sorted({found for part in parts for found in _patterns(part)})
    for pattern in patterns:
        attacks(pattern)
    return _timed(patterns) if patterns else None


def _timed(patterns: Sequence[str]) -> int | None:
    """Return the limit of `most_characters` for patterns that try many, but not exponentially many, ways."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "converters.verification.tokenizer_cost"],
            input=json.dumps(patterns),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        )
        slow: bool | None = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        # The process timed out, crashed, or did not print JSON.
        slow = None
    if slow is None:
        raise InvalidModel(
            "a regular expression of the tokenizer takes seconds or fails on a text of "
            f"{SLOW_CHARACTERS} characters: " + ", ".join(ascii(pattern)[:82] for pattern in patterns)
        )
    return SLOW_CHARACTERS if slow else None


def is_slow(patterns: Sequence[str]) -> bool | None:
    """Return whether a pattern's time grows faster than the text; None if it takes seconds or fails."""
    slow = False
    for pattern in patterns:
        splitter = Split(Regex(pattern), "isolated")
        asked = attacks(pattern)
        times: dict[tuple[str, str, str], float] = {}
        for length, most in _MOST_SECONDS.items():
            for attack in asked:
                times[attack] = _seconds(splitter, attack, length)
                if times[attack] > most:
                    return None
        slow = slow or any(
            _grows(splitter, attack) for attack in sorted(asked, key=times.__getitem__)[-_WORST:]
        )
    return slow


def _grows(splitter: Split, attack: tuple[str, str, str]) -> bool:
    """Return whether the time grows faster than the text."""
    # The lower of two times counts, because another process may have used the CPU's caches.
    return any(
        min(_seconds(splitter, attack, length) for _ in range(2)) > most
        for length, most in _IN_PROPORTION.items()
    )


def _seconds(splitter: Split, attack: tuple[str, str, str], length: int) -> float:
    """Return the CPU seconds that one text takes; infinity if the library fails."""
    before, unit, after = attack
    text = before + unit * (length // len(unit)) + after
    start = time.process_time()
    try:
        splitter.pre_tokenize_str(text)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return math.inf
    return time.process_time() - start


def _inside(part: Any, kind: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - JSON of a model's file
    """Yield the parts of a type, at any depth."""
    if isinstance(part, dict):
        if part.get("type") == kind:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _inside(inner, kind)


def _patterns(part: Any) -> Iterator[str]:  # noqa: ANN401 - as above
    """Yield every regular expression in a part."""
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _patterns(inner)


if __name__ == "__main__":
    json.dump(is_slow(json.load(sys.stdin)), sys.stdout)
