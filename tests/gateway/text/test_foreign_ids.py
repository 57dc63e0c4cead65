"""Token ids of another tokenizer than the model's are refused; the model's own never are."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from converters.verification.check_texts import check_texts
from gateway.errors import InvalidInput
from gateway.text.prompts import TextOptions
from gateway.text.tokenizer import TextTokenizer
from tests.gateway.text.test_tokenizer import manifest
from tests.support.tiny_tokenizers import CORPUS, VOCAB, byte_level, unigram, wordpiece

ODD = ["do n't stop", "a  b", "café Straße", "x\u2581y", "..", "1,000.5", "it ' s", " lead", "A B", "don't"]
LINES = (CORPUS[0], CORPUS[1], CORPUS[-1])
WORDS = sorted({word for line in LINES for word in line.split() if word.isalpha()})


@pytest.fixture(scope="module")
def minilm(minilm_path: str, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    file = Tokenizer.from_file(f"{minilm_path}/tokenizer.json")
    file.no_padding()
    file.enable_truncation(64)
    return saved(file, tmp_path_factory.mktemp("minilm"), 30522)


def saved(file: Tokenizer, into: Path, vocab_size: int) -> TextTokenizer:
    file.save(str(into / "tokenizer.json"))
    return TextTokenizer(into, manifest(vocab_size=vocab_size))


def own_ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return [token.id for token in tokenizer.tokens(text)]


def test_own_ids_are_taken_whatever_the_text(minilm: TextTokenizer) -> None:
    chosen = random.Random(1)
    random_texts = [" ".join(chosen.choices(WORDS, k=chosen.randrange(1, 90))) for _ in range(1000)]
    for text in [*check_texts(), *ODD, *random_texts]:
        ids = own_ids(minilm, text)
        assert minilm.encode_ids([ids]).rows[0].tolist() == minilm.encode([text]).rows[0].tolist()


@pytest.mark.parametrize("maker", [wordpiece, byte_level, unigram])
def test_own_ids_are_taken_by_every_kind(
    maker: Callable[[], PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    file = Tokenizer.from_str(maker().backend_tokenizer.to_str())
    file.enable_truncation(20, direction="left")
    tokenizer = saved(file, tmp_path, VOCAB)
    for text in [*check_texts(), *ODD, *CORPUS]:
        tokenizer.encode_ids([own_ids(tokenizer, text)])


def test_a_long_text_may_be_cut_in_the_middle_of_words(minilm: TextTokenizer) -> None:
    ids = own_ids(minilm, " ".join(["unbelievably photosynthetic", *CORPUS]))[1:-1]
    taken = [minilm.encode_ids([ids[start : start + 50]]) for start in range(10)]
    assert len(taken) == 10


def test_ids_of_another_tokenizer_are_refused_and_told_why(minilm: TextTokenizer) -> None:
    foreign, chosen = SimpleTokenizer(), random.Random(2)
    samples = [foreign.encode(" ".join(chosen.choices(WORDS, k=12))) for _ in range(1000)]
    reasons = [refusal(minilm, ids) for ids in samples if max(ids) < 30522]
    wanted = (
        "input.0: another tokenizer than the model's made these ids; send text "
        "(langchain-openai: check_embedding_ctx_length=False)"
    )
    assert len(reasons) > 100
    assert reasons.count(wanted) > 0.8 * len(reasons)
    outside = r"^input\.0\.1: 49000 is no token .*check_embedding_ctx_length=False"
    with pytest.raises(InvalidInput, match=outside):
        minilm.encode_ids([[2000, 49000]], TextOptions(prompt=""), "input")


def refusal(tokenizer: TextTokenizer, ids: list[int]) -> str:
    try:
        tokenizer.encode_ids([ids], field="input")
    except InvalidInput as error:
        return str(error)
    return ""
