"""What a name in one word means."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from gateway.errors import ModelNotFound
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog
from tests.conftest import Server
from triton_models.repository.repository import Repository


@pytest.fixture
def catalog(clip_server: Server, tmp_path: Path) -> Catalog:
    """With `ViT-B-32` of the tag `tag`, and `tiny/static`."""
    for tower in ("text", "image"):
        directory = tmp_path / f"ViT-B-32_tag_{tower}_encoder"
        shutil.copytree(clip_server.repository / f"hf-hub_tiny_clip_{tower}_encoder", directory)
        for path in directory.glob("*/model.json"):
            manifest = json.loads(path.read_text())
            path.write_text(json.dumps({**manifest, "model_name": "ViT-B-32", "pretrained": "tag"}))
    shutil.copytree(clip_server.repository / "tiny_static", tmp_path / "tiny_static")
    return Catalog(Repository(tmp_path))


CLIP, STATIC = ModelId("ViT-B-32", "tag"), ModelId("tiny/static")


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("ViT-B-32:tag", CLIP),
        ("ViT-B-32/tag", CLIP),
        ("ViT-B-32_tag", CLIP),
        ("ViT-B-32_tag_text_encoder", CLIP),
        ("ViT-B-32_tag_image_encoder", CLIP),
        ("tiny/static", STATIC),
        ("tiny_static", STATIC),
        # Nothing of the repository: the caller is told how to load what the name says first.
        ("ViT-B-32/other", ModelId("ViT-B-32/other")),
        ("ViT-B-32:other", ModelId("ViT-B-32", "other")),
        ("hf-hub:tiny/clip", ModelId("hf-hub:tiny/clip", "")),
        ("tiny", ModelId("tiny")),
    ],
)
def test_a_name_in_one_word(catalog: Catalog, name: str, model_id: ModelId) -> None:
    assert asyncio.run(catalog.named(name)) == model_id
    assert asyncio.run(catalog.named(model_id.id)) == model_id


@pytest.mark.parametrize("name", ["", "../tiny", "a/b/c", "tiny/static/", "a:b:c", ".state", "tiny\0static"])
def test_no_name_of_a_model(catalog: Catalog, name: str) -> None:
    with pytest.raises(ModelNotFound, match="no model can be named"):
        asyncio.run(catalog.named(name))


def test_models_that_are_loaded_no_longer_are_forgotten(catalog: Catalog) -> None:
    async def run() -> None:
        await asyncio.gather(catalog.texts.get(CLIP), catalog.images.get(CLIP), catalog.texts.get(STATIC))
        await catalog.keep_only({"tiny_static"})
        assert STATIC in catalog.texts
        assert CLIP not in catalog.texts
        assert CLIP not in catalog.images
        assert (await catalog.texts.get(CLIP)).model_id == CLIP

    asyncio.run(run())
