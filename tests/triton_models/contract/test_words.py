"""Words are found in a list exactly as by the library's WhitespaceTokenizer."""

import random

import pytest
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from converters.verification.check_texts import check_texts
from tests.support.tiny_words import word_list
from triton_models.contract.manifest import WordLookup
from triton_models.contract.words import finder

TEXTS = [
    "U.S. u.s. (U.S.) 'U.S', dr. DR. Dr. don't DON'T \"don't\"",
    "... -- ,... .'s 's S 'S' !?",
    "Paper paper PAPER (paper) The the THE .",
    "STRASSE Straße STRAßE \u0130 \u0130. i\u0307 ÉTÉ été.",
    "a\x1cthe\x1dpaper\x85river\u2003ocean\u3000market\u180edoctor\u200bquiet",
    "PADDING_TOKEN padding_token _PADDING_TOKEN_",
]


@pytest.mark.parametrize("lower_case", [False, True])
@pytest.mark.parametrize("stop_words", [(), ("the", ".", "'s", "U.S", "")])
def test_the_words_of_the_library(lower_case: bool, stop_words: tuple[str, ...]) -> None:
    words = word_list()
    library = WhitespaceTokenizer(words, stop_words, lower_case)
    file = Tokenizer(models.WordLevel(dict(library.word2idx)))
    file.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    keep = finder(file.get_vocab(), WordLookup(list(stop_words), lower_case))
    choice = random.Random(5)
    pieces = [*words, *".,'\"() -_\t\u00a0", *(word.upper() for word in words[:40])]
    made = ["".join(choice.choices(pieces, k=8)) for _ in range(500)]
    for text in [*TEXTS, *check_texts(), *made]:
        assert file.encode(keep(text), add_special_tokens=False).ids == library.tokenize(text), ascii(text)
