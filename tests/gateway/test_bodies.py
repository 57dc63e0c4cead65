"""Large bodies are read without holding everything up, and as any JSON parser reads them."""

import asyncio
import json
import random

import pytest

from gateway.bodies import parse_large
from gateway.budget import Budget
from gateway.embedding_schemas import InferRequest
from gateway.errors import InvalidInput
from gateway.schemas import parse

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
        budget, held, most = Budget(100), 0, 0
        rng = random.Random(5)

        async def one(amount: int, seconds: float, cancel: bool) -> None:
            nonlocal held, most
            async with budget.share(amount):
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
        async with asyncio.timeout(1), budget.share(100):
            pass

    asyncio.run(run())
