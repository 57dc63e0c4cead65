"""Images of requests: what their deadline spares."""

import asyncio
import base64
from pathlib import Path

import pytest
from PIL import Image

from gateway.concurrency import Deadline
from gateway.errors import DeadlineExceeded
from gateway.health.monitor import Monitor
from gateway.images import decoder
from gateway.lifespan import embedders
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog, ImageModel
from gateway.models.readiness import ReadinessGate
from gateway.settings import Settings
from tests.support.pictures import encoded
from tests.support.tiny_repository import manifest
from triton_models.contract.manifest import ImagePreprocessing
from triton_models.repository.repository import Repository
from triton_models.server.triton import Triton


def test_an_image_that_takes_longer_than_its_request_has_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some megabytes then take months.
    monkeypatch.setattr(decoder, "_BYTES_A_SECOND", 1)
    preprocessing = ImagePreprocessing(32, 32, "shortest", "bicubic")
    recorded = manifest("tiny", b"", tower="image", image=preprocessing)
    model = ImageModel(ModelId("tiny"), "tiny", recorded, 1, preprocessing)
    image = base64.b64encode(encoded(Image.new("RGB", (2000, 2000)), "PNG")).decode()

    async def case() -> None:
        repository = Repository(tmp_path)
        async with Triton(tmp_path, "", grpc_url="127.0.0.1:9") as triton:
            readiness = ReadinessGate(repository, triton, Monitor(repository, triton, compute_seconds=5))
            settings = Settings(load_models=())
            _, images, readers = embedders(settings, Catalog(repository), triton, readiness)
            try:
                with pytest.raises(DeadlineExceeded):
                    await images._embed(model, [image], "image", Deadline.of(None, 60))
            finally:
                await readers[0].close()
                readers[1].close()

    asyncio.run(case())
