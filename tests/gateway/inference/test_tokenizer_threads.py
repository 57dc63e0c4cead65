"""Panics of the tokenizer's library become errors of one text; what is slow is left at the deadline."""

import asyncio
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from gateway.concurrency import Deadline
from gateway.errors import DeadlineExceeded, InvalidInput, TooLarge
from gateway.inference.tokenizer_threads import Tokenizing
from gateway.text.prompts import DEFAULT
from gateway.text.tokenizer import TextTokenizer
from tests.gateway.text.test_tokenizer import manifest

EVIL = "Q" + "a" * 40 + "b"


def saved(path: Path, replaced: str, max_characters: int | None = None) -> TextTokenizer:
    file = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    file.pre_tokenizer = pre_tokenizers.Whitespace()
    file.normalizer = normalizers.Replace(Regex(replaced), "z")
    file.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("(a*)*$"), "z")])
    file.save(str(path / "tokenizer.json"))
    return TextTokenizer(path, manifest(max_seq_length=None, max_characters=max_characters))


def test_a_panic_names_its_text(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, "Q(a*)*$")
    with pytest.raises(InvalidInput, match=r"^input\.6: the model's tokenizer fails on this text$"):
        tokenizer.encode(["a", "b", EVIL], DEFAULT, "input", 4)
    with pytest.raises(InvalidInput, match=r"^inputs\.3: the model's tokenizer fails"):
        tokenizer.tokens(EVIL, field="inputs", index=3)
    with pytest.raises(InvalidInput, match=r"^ids\.1: the model's tokenizer fails on these ids$"):
        tokenizer.decode([0] * 40 + [1], field="ids.1")


def test_a_slow_tokenizer_leaves_the_loop_free_and_is_left_in_time(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, r"\s+$", 8192)
    assert tokenizer.is_slow
    with pytest.raises(TooLarge, match=r"^text\.5: 8193 characters; this model takes 8192$"):
        tokenizer.encode(["a", "a" * 8193], first=4)

    async def ask() -> int:
        threads, beats = Tokenizing(), 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        beating = asyncio.create_task(beat())
        texts = [" " * 8000 + "a"] * 64
        deadline = Deadline.of(1000, 60)
        with pytest.raises(DeadlineExceeded):
            await threads.encode(tokenizer.encode, texts, DEFAULT, "text", deadline, one_by_one=True)
        later = Deadline.of(None, 60)
        done = await threads.encode(tokenizer.encode, ["a", "b"], DEFAULT, "", later, one_by_one=True)
        assert [row.tolist() for row in done.rows] == [[0], [1]]
        beating.cancel()
        threads.close()
        return beats

    assert asyncio.run(ask()) > 5
