"""Text cleaning as open_clip does it before its tokenizer sees a text.

Source: open_clip 3.3, `tokenizer.py` (MIT licence), functions `_clean_lower`, `_clean_whitespace` and
`_clean_canonicalize`. These are pure functions of a text, without torch. The gateway cleans texts with them,
and the converter compares the resulting ids with open_clip's own.
"""

import html
import re
import string
from collections.abc import Callable, Mapping

import ftfy

from triton_models.contract.manifest import TextCleaning

Clean = Callable[[str], str]

_PLAIN = re.compile(r"[\t\n !-%'-~]*")
"""Printable ASCII without `&`. Neither ftfy nor `html.unescape` changes such a text, and both are slow."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _basic(text: str) -> str:
    """Repair mojibake and resolve HTML entities."""
    if _PLAIN.fullmatch(text):
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _whitespace(text: str) -> str:
    return " ".join(_basic(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    bare = _basic(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(bare.lower().split())


CLEANINGS: Mapping[TextCleaning, Clean] = {
    "lower": _lower,
    "whitespace": _whitespace,
    "canonicalize": _canonicalize,
}
"""The cleaning functions by the manifest's `text_cleaning`."""
