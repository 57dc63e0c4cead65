"""open_clip's tokenizer as a file of the `tokenizers` library, and the check that both give the same ids.

A text is cleaned before the file is applied (`triton_models/contract/cleaning.py`) and padded afterwards.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import regex
from numpy.typing import NDArray
from open_clip import tokenizer as open_clip_tokenizer
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing

from converters.errors import InvalidModel, shorten
from converters.verification.tokenizer_cost import most_characters
from triton_models.contract.cleaning import CLEANINGS
from triton_models.contract.manifest import TextCleaning

_WORD_END = "</w>"
_CODE_POINTS = 0x110000
_NEITHER = r"\x{345}"
"""If case is ignored, U+0345 is in none of the classes of `regex`, and `SimpleTokenizer` drops it."""
_SURROGATES = range(0xD800, 0xE000)


class ClipTokenizer:
    """Tokenizer that maps texts to ids as the gateway does.

    Attributes:
        tokenizer: Content of the file; it truncates and adds the special tokens.
        cleaning: Cleaning of a text before the file is applied.
        context_length: Tokens to which open_clip pads every text.
        pad_id: Id of padding tokens.
        separator: An id that open_clip replaces by 0 in every text; None if there is none.
        max_characters: As in the manifest.
    """

    def __init__(self, reference: Any) -> None:  # noqa: ANN401 - open_clip's tokenizers share no type
        self._reference = reference
        self.context_length = int(reference.context_length)
        self.cleaning = _cleaning(reference.clean_fn)
        self.pad_id = 0
        self.max_characters: int | None = None
        self.separator: int | None = None
        if isinstance(reference, SimpleTokenizer):
            self.tokenizer = _byte_pairs(reference)
        elif isinstance(reference, HFTokenizer):
            self.tokenizer, self.pad_id = _hugging_face(reference)
            self.max_characters = most_characters(self.tokenizer)
            if reference.strip_sep_token:
                self.separator = int(reference.tokenizer.sep_token_id)
        else:
            raise InvalidModel(f"the tokenizer {type(reference).__name__} is not supported")

    def ids(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text, int64 [L], 1 <= L <= context_length.

        They are truncated and include the special tokens, but no padding.
        """
        return np.asarray(self.tokenizer.encode(CLEANINGS[self.cleaning](text)).ids, dtype=np.int64)

    def filled(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text with padding, int64 [context_length]."""
        row = np.full(self.context_length, self.pad_id, dtype=np.int64)
        ids = self.ids(text)
        row[: len(ids)] = ids
        return row

    def reference_ids(self, text: str) -> NDArray[np.int64]:
        """Return open_clip's own ids of a text, int64 [context_length]."""
        ids: NDArray[np.int64] = self._reference([text])[0].numpy()
        return ids

    def check_same(self, texts: Sequence[str]) -> None:
        """Compare the ids with open_clip's for every text.

        Raises:
            InvalidModel: The ids of a text differ.
        """
        for text in texts:
            ids = self.filled(text)
            if self.separator is not None:
                ids[ids == self.separator] = 0
            if not np.array_equal(ids, self.reference_ids(text)):
                raise InvalidModel(f"tokenizer.json gives other ids than open_clip for {shorten(text)}")


def _cleaning(function: Callable[[str], str]) -> TextCleaning:
    for name in CLEANINGS:
        if function is open_clip_tokenizer.get_clean_fn(name):
            return name
    raise InvalidModel("the tokenizer cleans texts in a way that is not supported")


def _byte_pairs(reference: SimpleTokenizer) -> Tokenizer:
    """Return CLIP's own byte-pair encoding as a tokenizer of `tokenizers`."""
    if reference.reduction_fn is not None:
        raise InvalidModel(
            "the tokenizer drops tokens at random (reduction_mask), which is for training only"
        )
    vocabulary = dict(reference.encoder)
    merges = sorted(reference.bpe_ranks, key=reference.bpe_ranks.__getitem__)
    specials = [reference.decoder[number] for number in reference.all_special_ids]
    for special in specials:
        # A text may spell a special token out, and open_clip then treats it as that token. In the file it is
        # an ordinary word, built by merges that no other word can reach.
        number = vocabulary.pop(special)
        pieces = [
            piece.value for piece in BPE(vocabulary, merges, end_of_word_suffix=_WORD_END).tokenize(special)
        ]
        joined = pieces[0]
        for piece in pieces[1:]:
            merges.append((joined, piece))
            joined += piece
            vocabulary.setdefault(joined, len(vocabulary) + len(specials))
        vocabulary[joined] = number
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix=_WORD_END))
    tokenizer.pre_tokenizer = PreTokenizers(
        [
            Split(Regex(_pattern(specials)), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    start, end = (specials[place] + _WORD_END for place in (0, 1))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, reference.sot_token_id), (end, reference.eot_token_id)],
    )
    tokenizer.enable_truncation(int(reference.context_length))
    return tokenizer


def _pattern(specials: Sequence[str]) -> str:
    """Return `SimpleTokenizer.pat` for the regular expressions of `tokenizers`.

    Those know an older Unicode than Python's `regex`; the letters and numbers that they lack are added.
    """
    letters, numbers = (rf"\p{{{kind}}}{_ranges(_lacking(kind))}" for kind in ("L", "N"))
    words = "'s|'t|'re|'ve|'m|'ll|'d"
    literal = "|".join([*specials, words])
    return rf"(?i:{literal})|[{letters}]+|[{numbers}]|[^\s{letters}{numbers}{_NEITHER}]+"


def _lacking(kind: str) -> list[int]:
    """Return the code points that are of a kind (`L`, `N`) in `regex` but not in `tokenizers`."""
    every = [number for number in range(_CODE_POINTS) if number not in _SURROGATES]
    text = "".join(map(chr, every))
    places = {match.start() for match in regex.finditer(rf"\p{{{kind}}}", text)}
    # Each part that is left after removing comes with its place in the text.
    left = Split(Regex(rf"\p{{{kind}}}+"), behavior="removed").pre_tokenize_str(text)
    return [every[place] for _, (start, end) in left for place in range(start, end) if place in places]


def _ranges(numbers: Iterable[int]) -> str:
    """Format ascending code points for the brackets of a regular expression."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in runs)


def _hugging_face(reference: HFTokenizer) -> tuple[Tokenizer, int]:
    """Return the tokenizer of a transformers model, and its padding id."""
    live = reference.tokenizer
    if reference.tokenizer_mode:
        raise InvalidModel(f"the tokenizer mode {reference.tokenizer_mode!r} is not supported")
    if not hasattr(live, "backend_tokenizer"):
        raise InvalidModel("the model has a slow tokenizer only; it needs a tokenizer.json")
    if live.padding_side != "right":
        raise InvalidModel("the tokenizer fills texts up on the left, which is not supported")
    if live.pad_token_id is None:
        raise InvalidModel("the tokenizer has no padding token")
    tokenizer = Tokenizer.from_str(live.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(reference.context_length), direction=live.truncation_side)
    return tokenizer, cast(int, live.pad_token_id)
