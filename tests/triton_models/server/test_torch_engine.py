"""The torch engine in a real Triton, on the CPU: only the attention's kernel differs from that of a GPU."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from triton_models.client.client import TritonClient
from triton_models.client.errors import NotFinite
from triton_models.contract.accuracy import BOUNDS, cosines
from triton_models.contract.checks import Check
from triton_models.repository.repository import Repository
from triton_models.server.embedded import EmbeddedTriton

LOAD_SECONDS = 200.0
"""The stub imports torch."""


def test_triton_serves_a_packed_model_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.job import Request
    from converters.sentence_transformer.pipeline import run
    from tests.converters.conftest import Steps
    from tests.support.tiny_models import transformer_model

    transformer_model(tmp_path / "sources" / "tiny", "bert")
    request = Request(
        "tiny", tmp_path / "models", None, [tmp_path / "sources"], False, 2, False, precision="fp16"
    )
    ((name, manifest),) = run(request, Steps()).items()
    directory = Repository(request.output).version_dir(name)
    check = Check.read((directory / "check.npz").read_bytes())
    rows = [row.reshape(1, -1) for row in np.split(check.input_ids, np.cumsum(check.lengths)[:-1])]
    monkeypatch.setenv("ENGINE", "torch:fp16")

    async def serve() -> None:
        triton = EmbeddedTriton(request.output, "off")
        addresses = await triton.start()
        try:
            async with TritonClient(addresses.grpc) as client:
                await client.load(name, LOAD_SECONDS)
                assert "torch:fp16 in 1 streams" in triton.log_tail(200)
                planted = np.full((1, 7), manifest.planted_id)
                answers = await asyncio.gather(
                    *(client.infer(name, manifest.version, row, timeout=60) for row in [*rows, planted]),
                    return_exceptions=True,
                )
                assert isinstance(answers.pop(), NotFinite)
                vectors = np.concatenate(
                    [answer for answer in answers if not isinstance(answer, BaseException)]
                )
                assert cosines(vectors, check.embeddings).min() >= BOUNDS["fp16"].reference
                tokens = await client.infer(name, manifest.version, rows[0], timeout=60, tokens=True)
                assert tokens.shape == (*rows[0].shape, manifest.token_dimensions)
        finally:
            await triton.stop()

    asyncio.run(serve())
