"""The words of sentence-transformers' `WordEmbeddings` and `BoW`, as a file of the `tokenizers` library.

The file splits at spaces. `triton_models.contract.words` leaves nothing but words of the list between them.
"""

from typing import Any

from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from converters.errors import InvalidModel
from triton_models.contract.manifest import WordLookup


def lookup(tokenizer: WhitespaceTokenizer) -> WordLookup:
    """Return the rules by which words are found.

    Raises:
        InvalidModel: The list holds an empty word, which a file of `tokenizers` cannot.
    """
    if "" in tokenizer.word2idx and "" not in tokenizer.stop_words:
        raise InvalidModel(
            "the list of words holds an empty one, which sentence-transformers finds in every punctuation "
            "mark and no tokenizer.json can; put a string there that no text holds"
        )
    return WordLookup(sorted(tokenizer.stop_words), bool(tokenizer.do_lower_case))


def tokenizer_of(first: Any) -> Tokenizer:  # noqa: ANN401 - a `ReferenceModel.first`
    """Return the tokenizer, which truncates as the reference does.

    Args:
        first: A `WordEmbeddings` or a `BoW`.
    """
    tokenizer = Tokenizer(models.WordLevel(dict(first.tokenizer.word2idx)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if (limit := getattr(first, "max_seq_length", None)) is not None:
        tokenizer.enable_truncation(int(limit))
    return tokenizer
