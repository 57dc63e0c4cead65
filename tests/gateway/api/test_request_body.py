"""Large bodies are read without holding everything up, and as any JSON parser reads them."""

import asyncio
import json
import random
import subprocess
import sys

import pytest
from pydantic import ValidationError

from gateway.api import json_parts
from gateway.api.dialects.openai import EmbeddingsRequest
from gateway.api.dialects.tei_schemas import SimilarityRequest
from gateway.api.embedding_schemas import InferRequest
from gateway.api.request_body import parse, parse_large
from gateway.concurrency import WeightedSemaphore
from gateway.errors import InvalidInput, TooLarge
from tests.conftest import ROOT
from tests.fuzz.test_bodies import BODIES

LONG = "A1" * 50_000
TRICKY = [
    "",
    "short",
    LONG,
    LONG + '"',
    "\\" + LONG,
    LONG + "\\",
    LONG + "é🙂",
    '"',
    "\\",
    '\\"',
    LONG + "\n",
]


def body(**fields: object) -> bytes:
    return json.dumps({"model_name": "m", **fields}, ensure_ascii=False).encode()


@pytest.mark.parametrize("seed", range(20))
def test_strings_come_back_as_they_were(seed: int) -> None:
    rng = random.Random(seed)
    texts, images = rng.choices(TRICKY, k=rng.randint(1, 8)), rng.choice(TRICKY)
    content = body(text=texts, image=images, normalize=True)
    read = parse_large(InferRequest, bytearray(content))
    assert read == parse(InferRequest, content)
    assert (read.text, read.image) == (texts, images)


@pytest.mark.parametrize("field", ["model_name", "prompt", "prompt_name"])
def test_only_inputs_may_be_long(field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^{field}: {len(LONG)} characters are too many$"):
        parse_large(InferRequest, bytearray(body(**{"text": "a", field: LONG})))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'"',
        b'{"model_name": "m", "text": "' + LONG.encode(),
        b'{"model_name": "m", "text": "' + LONG.encode() + b'"',
        b'{"model_name": "m", "text": "' + LONG.encode() + b"\\",
        b'{"model_name": "m", "text": "\xff' + LONG.encode() + b'"}',
        b'{"model_name": "m", "text": "\\ud800' + LONG.encode() + b'"}',
        body(text=5, image=LONG),
        body(text=[LONG, None]),
    ],
)
def test_what_does_not_fit_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_large(InferRequest, bytearray(content))


def test_a_budget_is_never_exceeded_and_nobody_waits_for_ever() -> None:
    async def run() -> None:
        budget, held, most = WeightedSemaphore(100), 0, 0
        rng = random.Random(5)

        async def one(amount: int, seconds: float, cancel: bool) -> None:
            nonlocal held, most
            async with budget.acquire(amount):
                held += min(amount, 100)
                most = max(most, held)
                try:
                    await asyncio.sleep(seconds)
                    if cancel:
                        raise InvalidInput("on purpose")
                finally:
                    held -= min(amount, 100)

        tasks = [
            asyncio.create_task(one(rng.randint(1, 130), rng.random() / 500, rng.random() < 0.2))
            for _ in range(300)
        ]
        await asyncio.sleep(0.05)
        for task in rng.sample(tasks, 60):
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert most <= 100
        async with asyncio.timeout(1), budget.acquire(100):
            pass

    asyncio.run(run())


WRONG = 1_000
WRONG_VALUES: dict[str, object] = {
    "nulls": [None] * WRONG,
    "zeros": [0] * WRONG,
    "fractions": [0.5] * WRONG,
    "lists": [[]] * WRONG,
    "lists of nulls": [[None]] * WRONG,
    "a list of nulls": [[None] * WRONG],
    "texts and zeros": ["a", 0] * WRONG,
    "ids and nulls": [1, None] * WRONG,
    "two lists of nulls": [[None] * WRONG] * 2,
    "fields": {str(number): None for number in range(WRONG)},
}


@pytest.mark.parametrize("wrong", WRONG_VALUES)
def test_a_wrong_value_is_a_few_errors_however_many_elements_it_has(wrong: str) -> None:
    """Of each element an object of errors: a body of 4 MB took 3 GB and 20 s."""
    errors = []
    for schema, body in BODIES:
        for name in schema.model_fields:
            try:
                schema.model_validate_json(json.dumps({**body, name: WRONG_VALUES[wrong]}))
            except ValidationError as error:
                errors.append(error.error_count())
            except InvalidInput:
                continue
    assert len(errors) > 50
    assert max(errors) <= 8


def test_unknown_fields_are_one_error() -> None:
    for schema, body in BODIES:
        content = json.dumps({**body, **{f"k{number}": 0 for number in range(WRONG)}}).encode()
        with pytest.raises(InvalidInput, match=r"^k0: no field of this route"):
            parse(schema, content)


HEAD = b'{"model": "m", "input": '
COSTLY: dict[str, tuple[bytes, bytes, bytes]] = {
    "zeros": (HEAD + b"[", b"0,", b"0]}"),
    "fractions": (b'{"model": "m", "input": "a", "ranges": [[', b"1.5,", b"0]]}"),
    "lists": (HEAD + b"[", b"[],", b"[]]}"),
    "objects": (HEAD + b'"a", "x": [', b"{},", b"{}]}"),
    "depth": (HEAD, b"[", b""),
    "texts": (HEAD + b"[", b'"",', b'""]}'),
    "texts with spaces": (HEAD + b"[", b'" " , ', b'""]}'),
    "fields": (HEAD + b'"a"', b',"a":0', b"}"),
    "digits": (HEAD, b"9", b"}"),
    "long numbers": (HEAD + b"[", b"9" * 4300 + b",", b"9]}"),
    "half surrogates": (HEAD + b"[", b'"\\ud800",', b'""]}'),
    "one half surrogate": (HEAD + b'"\\ud800', b"a", b'"}'),
    "wide characters": (HEAD + b'["', "🙂".encode() + b"a" * 1_000_000 + b'","', b'"]}'),
    "no UTF-8": (HEAD + b'"', b"\x80", b'"}'),
    "control characters": (HEAD + b'"', b"\x01", b'"}'),
    "no end": (HEAD + b'"', b"a", b""),
}


def costly(name: str, size: int) -> bytearray:
    start, middle, end = COSTLY[name]
    return bytearray(start + middle * (size // len(middle)) + end)


@pytest.mark.parametrize("name", COSTLY)
def test_a_large_body_that_costs_more_than_to_read_it_is_refused(name: str) -> None:
    with pytest.raises((InvalidInput, TooLarge)) as refused:
        parse_large(EmbeddingsRequest, costly(name, 8 << 20))
    assert len(str(refused.value)) < 300


PEAK = """
import resource, sys
from gateway.errors import GatewayError
from tests.gateway.api.test_request_body import COSTLY, EmbeddingsRequest, costly, parse_large
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
content = costly("zeros", 64 << 20)
before = peak()
for name in COSTLY:
    content = costly(name, 64 << 20)
    try:
        parse_large(EmbeddingsRequest, content)
    except GatewayError:
        pass
    del content
print(peak() - before)
"""


def test_bodies_of_the_worst_kinds_take_little_memory() -> None:
    """64 MB each; a zero took 80 bytes of Python's and pydantic's."""
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200


@pytest.mark.parametrize("most", [20, 64, 1 << 18])
def test_a_string_is_read_in_pieces_as_it_is_read_whole(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "_PIECE", most)
    rng = random.Random(most)
    for _ in range(300):
        text = "".join(
            rng.choices(["a", "\\", '"', "é", "漢", "🙂", "\n", "\x7f", "ud83d", "u"], k=rng.randint(0, 90))
        )
        written = json.dumps(text, ensure_ascii=rng.random() < 0.5).encode() + b"," + rng.randbytes(9)
        content = bytearray(written)
        end = json_parts.end_of_string(content, 1)
        assert content[end : end + 2] == b'",'
        with memoryview(content) as view:
            assert json_parts.Texts(1 << 20).text(view[1:end]) == text
    for half in ("\\ud83d", "\\ude00", "a" * 70 + "\\ude00\\ud83d" + "a" * 70):
        assert json_parts.Texts(1 << 20).text(memoryview(half.encode())) is None


def test_half_a_character_in_a_long_text_is_told() -> None:
    content = bytearray(HEAD + b'["a", "' + b"a" * 1000 + b'\\ud800"]}')
    with pytest.raises(InvalidInput, match=r"^input\.1: a lone surrogate is not Unicode text$"):
        parse_large(EmbeddingsRequest, content)


def test_texts_of_brackets_are_texts() -> None:
    texts = ["[{:" * 20_000] * 3
    assert parse(InferRequest, body(text=texts)).text == texts
    assert parse_large(InferRequest, bytearray(body(text=texts))).text == texts


def test_a_prompt_may_be_long_in_a_large_body() -> None:
    prompt = "a" * 8000
    assert parse_large(InferRequest, bytearray(body(text="a", prompt=prompt))).prompt == prompt
    with pytest.raises(InvalidInput, match=r"^prompt: String should have at most 8192"):
        parse_large(InferRequest, bytearray(body(text="a", prompt="a" * 8193)))


def test_sentences_may_be_long() -> None:
    inputs = {"source_sentence": LONG, "sentences": [LONG, "a"]}
    read = parse_large(SimilarityRequest, bytearray(json.dumps({"inputs": inputs}).encode()))
    assert (read.inputs.source_sentence, read.inputs.sentences) == (LONG, [LONG, "a"])
