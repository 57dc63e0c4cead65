"""The converter's errors, as the callers of the server get them."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from converters.errors import ConversionError
from gateway.errors import GatewayError
from gateway.model_id import ModelId
from gateway.models.converter import _how_it_ended, convert
from gateway.settings import Settings

STATUSES = {
    "not_found": 404,
    "collision": 409,
    "invalid_model": 422,
    "check_failed": 422,
    "no_memory": 507,
    "no_space": 507,
}


def test_every_error_of_the_converter_has_a_status() -> None:
    assert {error.kind for error in ConversionError.__subclasses__()} == set(STATUSES)


@pytest.mark.parametrize("kind", STATUSES)
def test_a_failed_conversion_has_the_status_of_its_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It comes before the converter, and ends as that would.
    nice = tmp_path / "nice"
    nice.write_text(f"#!/bin/sh\necho '{json.dumps({'error': kind, 'message': 'the reason'})}'\nexit 1\n")
    nice.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    settings = Settings(load_models=(), model_repository=tmp_path / "repository")

    async def conversion() -> None:
        await convert(settings, ModelId("owner/name"), None, lambda _: None)

    with pytest.raises(GatewayError, match=r"^the reason$") as failed:
        asyncio.run(conversion())
    assert failed.value.status == STATUSES[kind]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-signal.SIGKILL, "was killed (SIGKILL), as the system does when memory runs out"),
        (-signal.SIGABRT, "was killed (SIGABRT), as the system does when memory runs out"),
        (-signal.SIGSEGV, "was ended by SIGSEGV, as when a library crashes on a model's files"),
        (-signal.SIGILL, "was ended by SIGILL"),
        (3, "ended with status 3 and no result"),
    ],
)
def test_the_signal_is_named(status: int, words: str) -> None:
    message = _how_it_ended(ModelId("owner/name"), status)
    assert f"the conversion of owner/name {words}" in message
    assert "log" not in message
