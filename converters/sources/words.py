"""Checks of the files of a model that is a list of words: `WordEmbeddings` or `BoW`.

Does not import torch.
"""

from pathlib import Path
from typing import Any

from converters.errors import InvalidModel
from converters.sources.configuration import check_keys, read_json
from converters.sources.weights import Stored

WORD_MODULES = ("WordEmbeddings", "BoW")
"""First modules of sentence-transformers that look words up in a list."""

TOKENIZER = "whitespacetokenizer_config.json"
_TABLE = "wordembedding_config.json"
_TABLE_KEYS = frozenset("tokenizer_class update_embeddings max_seq_length".split())
_TOKENIZER_KEYS = frozenset("vocab stop_words do_lower_case".split())
_COUNTS_KEYS = frozenset("vocab word_weights unknown_word_weight cumulative_term_frequency".split())
_MOST_COUNTED = 65536
"""Most words that are counted: a vector has a number for each, most of them zero."""
_MOST_STOP_WORDS = 10_000
_LARGEST = 3e38


def check_table(home: Path, stored: Stored) -> None:
    """Refuse files of `WordEmbeddings` that are broken, or that would lead the library to other code.

    Raises:
        InvalidModel: As described; the message names the file.
    """
    config = _read(home / _TABLE)
    check_keys(_TABLE, config, _TABLE_KEYS)
    named = str(config.get("tokenizer_class"))
    if not named.startswith("sentence_transformers.") or not named.endswith(".WhitespaceTokenizer"):
        raise InvalidModel(
            f"WordEmbeddings with the tokenizer {named[:100]!r} is not supported; save the model with a "
            "WhitespaceTokenizer"
        )
    limit = config.get("max_seq_length", 1)
    if type(limit) is not int or not 1 <= limit < 2**31:
        raise InvalidModel(f"{_TABLE} is broken: max_seq_length must be a number of tokens")
    settings = _read(home / TOKENIZER)
    check_keys(TOKENIZER, dict.fromkeys(settings), _TOKENIZER_KEYS)
    words, stop_words = settings.get("vocab"), settings.get("stop_words", [])
    if (
        not _are_words(words)
        or not _are_words(stop_words)
        or type(settings.get("do_lower_case", False)) is not bool
    ):
        raise InvalidModel(f"{TOKENIZER} is broken: it must hold two lists of words and a switch")
    stored.refuse_beyond(len(words), TOKENIZER)
    if len(stop_words) > _MOST_STOP_WORDS:
        raise InvalidModel(f"{TOKENIZER} holds {len(stop_words)} stop words; at most {_MOST_STOP_WORDS}")


def check_counts(home: Path) -> None:
    """Refuse a file of `BoW` that is broken, or that counts too many words.

    Raises:
        InvalidModel: As described.
    """
    config = _read(home / "config.json")
    check_keys("config.json of BoW", dict.fromkeys(config), _COUNTS_KEYS)
    words, weights = config.get("vocab"), config.get("word_weights", {})
    numbers = [*weights.values()] if isinstance(weights, dict) else [None]
    numbers.append(config.get("unknown_word_weight", 1))
    if not words or not _are_words(words) or not all(map(_is_weight, numbers)):
        raise InvalidModel("config.json of BoW is broken: it must hold a list of words and their weights")
    if len(words) > _MOST_COUNTED:
        raise InvalidModel(
            f"BoW gives vectors of {len(words):,} numbers, one for each word of its list; at most "
            f"{_MOST_COUNTED:,} are supported, so shorten the list"
        )


def _read(path: Path) -> Any:  # noqa: ANN401 - JSON of a model's file
    if not path.is_file():
        raise InvalidModel(f"the model has no {path.name}")
    return read_json(path, dict)


def _is_weight(number: Any) -> bool:  # noqa: ANN401 - JSON of a model's file
    return type(number) in (int, float) and not abs(number) > _LARGEST


def _are_words(given: Any) -> bool:  # noqa: ANN401 - JSON of a model's file
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        return False
    try:
        "".join(given).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can hold and no text can.
        return False
    return True
