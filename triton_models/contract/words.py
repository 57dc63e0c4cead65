"""Words of a text as sentence-transformers' `WhitespaceTokenizer` finds them in a list of words.

The library tries a word as it stands, then without the punctuation around it, then in lower case. No
`tokenizer.json` can express that, so the words that were found are written with spaces between them, and the
file only splits at spaces. The gateway and the converter do so with the same function.
"""

import string
from collections.abc import Callable, Collection, Iterator

from triton_models.contract.manifest import WordLookup


def finder(words: Collection[str], lookup: WordLookup) -> Callable[[str], str]:
    """Return a function that keeps the known words of a text, in the form in which they are in the list.

    Args:
        words: The list of words; a set or a dict, because every word of a text is looked up.
        lookup: The words that are left out, and whether texts are lower-cased.
    """
    left_out = frozenset(lookup.stop_words)

    def forms(word: str) -> Iterator[str]:
        yield word
        word = word.strip(string.punctuation)
        yield word
        yield word.lower()

    def find(word: str) -> str | None:
        for form in forms(word):
            if form in left_out:
                return None
            if form in words:
                return form
        return None

    def keep(text: str) -> str:
        given = text.lower() if lookup.lower_case else text
        return " ".join(found for word in given.split() if (found := find(word)))

    return keep
