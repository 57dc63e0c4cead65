"""A tokenizer whose author makes texts expensive is refused; those of real models are not."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from converters.errors import InvalidModel
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.verification import tokenizer_cost
from converters.verification.regexes import attacks
from converters.verification.tokenizer_cost import SLOW_CHARACTERS, is_slow, most_characters
from tests.converters.sentence_transformer.test_options import opened
from tests.support.tiny_models import transformer_model
from tests.support.tiny_tokenizers import byte_level, unigram, wordpiece

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MIXED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _WORDS + "?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _WORDS + "?|"
)
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REAL = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": _WORDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST,
    "Qwen 2": _WORDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST,
    "Qwen 3.5": _WORDS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s+",
    "GPT-4o": _MIXED + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "BLOOM": " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    "DeepSeek 3": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "Ling": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+",
    "Falcon": r"[0-9][0-9][0-9]",
    "Chameleon": r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    "Gemma": r"[^\n]+|[\n]+",
    "XLM-R": r" {2,}",
    "EXAONE": _WORDS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    "CJK": "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
}
QUADRATIC = {"DeepSeek": r"\s+$", "Aya": r"\d{1,3}(?=(?:\d{3})*\b)", "OLMo": r"(?=(\d{3})+(?!\d))"}


@pytest.mark.parametrize("name", REAL)
def test_patterns_of_real_models_are_understood(name: str) -> None:
    Regex(REAL[name])
    attacks(REAL[name])


def test_patterns_of_real_models_are_fast() -> None:
    assert is_slow([REAL["GPT-2"], REAL["Llama 3"], REAL["BLOOM"], REAL["XLM-R"]]) is False


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_pattern_of_a_real_model_is_fast(name: str) -> None:
    assert is_slow([REAL[name]]) is False


@pytest.mark.parametrize(
    "name", ["DeepSeek", *(pytest.param(x, marks=pytest.mark.slow) for x in ("Aya", "OLMo"))]
)
def test_time_that_grows_with_the_square_limits_the_text(name: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(QUADRATIC[name]), "isolated")
    assert most_characters(tokenizer) == SLOW_CHARACTERS


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a|aa)+$",
        r"(a|a)*b",
        r"(?:qzx)(?:a|[ab])+c",
        r"(a*)*$",
        r"(x+x+)+y",
        r"(?:a{1,3})+b",
        r"a{1,3}+b",
        r"(a?){30}a{30}",
        "a?" * 12 + "a" * 12,
        r"(?:\u4e00|\u4e00\u4e00)+$",
        r"(?=(a+)\1)b",
        r"(?<x>a)\g<x>",
        r"(?:^|a)*b",
        r"(?:(?=a)a?)+b",
    ],
)
def test_patterns_with_exponentially_many_ways_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidModel, match="the tokenizer's regular expression"):
        attacks(pattern)


def test_a_pattern_that_takes_seconds_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.normalizer = normalizers.Replace(Regex("a{0,15}" * 9 + "b"), "z")
    with pytest.raises(InvalidModel, match=r"takes seconds or fails on a text of 8192 characters"):
        most_characters(tokenizer)


def test_a_pattern_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_cost, "_TIMEOUT", 0.01)
    with pytest.raises(InvalidModel, match="takes seconds"):
        tokenizer_cost._timed([r"\s+"])


def edited(tokenizer: Tokenizer, change: Any) -> Tokenizer:  # noqa: ANN401 - a function
    spec = json.loads(tokenizer.to_str())
    change(spec)
    return Tokenizer.from_str(json.dumps(spec))


def test_sizes_that_multiply_a_text_are_refused() -> None:
    plain = wordpiece().backend_tokenizer
    for usual in (plain, byte_level().backend_tokenizer, unigram().backend_tokenizer):
        assert most_characters(usual) is None
    grows = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 20}] * 3
    with pytest.raises(InvalidModel, match="8000 times as long"):
        most_characters(
            edited(plain, lambda spec: spec.update(normalizer={"type": "Sequence", "normalizers": grows}))
        )
    with pytest.raises(InvalidModel, match="max_input_chars_per_word"):
        most_characters(edited(plain, lambda spec: spec["model"].update(max_input_chars_per_word=10**6)))
    with pytest.raises(InvalidModel, match="a token of 2000 characters"):
        most_characters(edited(plain, lambda spec: spec["model"]["vocab"].update({"q" * 2000: 599})))


def test_a_model_with_such_a_tokenizer_is_refused_before_the_first_text(tmp_path: Path) -> None:
    path = transformer_model(tmp_path / "model")
    file = path / "tokenizer.json"
    evil = [{"type": "Replace", "pattern": {"Regex": "(?:qzx)(a|aa)+$"}, "content": "z"}]
    spec = json.loads(file.read_text())
    spec["normalizer"] = {"type": "Sequence", "normalizers": [spec["normalizer"], *evil]}
    file.write_text(json.dumps(spec))
    with pytest.raises(InvalidModel, match=r"regular expression '\(\?:qzx\)\(a\|aa\)\+\$' repeats"):
        ReferenceTokenizer(opened(path))
