"""Tests of Triton's faults while images are embedded beside texts."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Server
from tests.faults.conftest import LIMIT, TEXTS
from tests.faults.load import Load, Pool
from tests.faults.processes import stub_of, triton_of
from tests.support.pictures import encoded, photo
from tests.support.tiny_clip import config, write_clip
from tests.support.vectors import embed

CLIP = "hf-hub:tiny/clip"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_images_and_texts_through_kills(tmp_path: Path, note: Callable[[str, Load], None]) -> None:
    write_clip(tmp_path / "sources" / "tiny" / "clip", config())
    settings = {
        "MODEL_SOURCES": str(tmp_path / "sources"),
        "REQUEST_TIMEOUT": str(LIMIT),
    }
    server = Server(tmp_path / "repository", settings, tmp_path / "server.log")
    images = [base64.b64encode(encoded(photo(seed=number), "PNG")).decode() for number in range(40)]
    with server.running(), server.client() as client:
        assert client.post("/load_clip_model", json={"model_name": CLIP}).status_code == 200
        answer = client.post("/infer_image", json={"model_name": CLIP, "image": images})
        pools = [
            Pool({"model_name": CLIP}, TEXTS, embed(client, TEXTS, CLIP)),
            Pool(
                {"model_name": CLIP},
                images,
                np.array(answer.json()["embedding"], np.float32),
                modality="image",
                sizes=(1, 1, 1, 5, 20),
            ),
        ]
        with Load(server.port, pools, limit=LIMIT) as under:
            under.settle()
            with under.fault():
                triton_of(server).kill()
            with under.fault():
                stub_of(server, "hf-hub_tiny_clip_image_encoder").kill()
        note("texts and images: SIGKILL of Triton, then of the image tower's stub", under)
        under.check()
