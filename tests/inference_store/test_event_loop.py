"""A large request in JSON is read beside the event loop of the store."""

import asyncio
import json
from typing import Any

import pytest

from inference_store.errors import Refused
from inference_store.http_server import HttpApplication
from tests.support.event_loop import turns_during

TENSOR = {"name": "X", "datatype": "FP32", "shape": [500_000], "data": [0.5] * 500_000}
BODY = json.dumps({"inputs": [TENSOR]}).encode()
TIMES = 10  # The parser holds the interpreter's lock for most of a body, so one alone leaves few turns.


class Nothing:
    """A store that answers no call."""

    async def infer(self, request: object, metadata: object) -> Any:  # noqa: ANN401, ARG002
        raise Refused("nothing is here")

    async def call(self, method: str, request: object, metadata: object) -> Any:  # noqa: ANN401, ARG002
        raise Refused("nothing is here")


@pytest.mark.parametrize(
    ("path", "status"), [("/v2/models/m/infer", 501), ("/v2/repository/index", 501)], ids=["infer", "other"]
)
def test_a_large_body_leaves_the_event_loop_to_others(path: str, status: int) -> None:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"method": "POST", "raw_path": path.encode(), "headers": [], "http_version": "1.1"}
    application = HttpApplication(Nothing(), 64 << 20)  # type: ignore[arg-type]

    async def ask() -> None:
        for _ in range(TIMES):
            await application(scope, receive, send)

    _, turns = asyncio.run(turns_during(ask()))
    assert statuses == [status] * TIMES
    assert turns > 0
