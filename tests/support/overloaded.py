"""The whole front end over HTTP, without Triton behind it, in an overload of one model."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import app as application
from gateway.api.request_body import SMALL, Bodies
from gateway.errors import ModelNotFound, Overloaded
from gateway.inference.text import Embedded
from gateway.model_id import Reference
from gateway.settings import Settings
from tests.support.http_server import serving_in_a_thread
from triton_models.contract.names import InvalidModelName

FULL = "full/model"
FREE = "free/model"


class Embedder:
    """Refuses for one model, answers for the others, and counts who got to it."""

    is_overloaded = True

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.refused: list[int] = []

    def early_refusal(self, reference: Reference, texts: int) -> Overloaded | None:
        if reference.model_name != FULL:
            return None
        self.refused.append(texts)
        return Overloaded("the model's queue is full", 7)

    async def embed(self, reference: Reference, texts: list[str], **_: Any) -> Embedded:  # noqa: ANN401
        self.asked.append(len(texts))
        if (refusal := self.early_refusal(reference, len(texts))) is not None:
            raise refusal
        return Embedded(np.full((len(texts), 2), 0.5, np.float32), len(texts))


class Catalog:
    """Knows a model of every name."""

    async def named(self, name: str) -> Reference:
        try:
            return Reference.parse(name)
        except InvalidModelName as error:
            raise ModelNotFound(str(error)) from error


@contextmanager
def serving(embedder: Embedder, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port."""

    @asynccontextmanager
    async def running(*_: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(bodies=Bodies(4 * SMALL, 5.0), catalog=Catalog(), embedder=embedder)

    monkeypatch.setattr(application, "running", running)
    monkeypatch.setattr(application, "collect_less", lambda: None)
    with serving_in_a_thread(application.create_app(settings)) as port:
        yield port
