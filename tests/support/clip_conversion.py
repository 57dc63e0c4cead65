"""A converted CLIP model in a test: both towers run by the engines that serve, beside open_clip itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tokenizers import Tokenizer

from converters.clip import pipeline
from converters.job import Request
from tests.converters.conftest import Steps
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.image_engine import ImageEngine
from triton_models.contract.cleaning import CLEANINGS
from triton_models.contract.manifest import Manifest
from triton_models.contract.names import ClipNames
from triton_models.repository.repository import Repository


class ConvertedClip:
    """An installed pair."""

    def __init__(self, repository: Repository, converted: dict[str, Manifest]) -> None:
        self.repository = repository
        self.names = ClipNames(*converted)
        self.text: Manifest = repository.manifest(self.names.text)
        self.image: Manifest = repository.manifest(self.names.image)
        self.text_directory = repository.version_dir(self.names.text)
        self.image_directory = repository.version_dir(self.names.image)
        self.text_engine = Engine(self.text_directory / "model.onnx", 2)
        self.image_engine = ImageEngine(self.image_directory / "model.onnx", 2)
        self.tokenizer = Tokenizer.from_file(str(self.text_directory / "tokenizer.json"))

    def ids(self, text: str) -> list[int]:
        assert self.text.text_cleaning is not None
        ids = list(self.tokenizer.encode(CLEANINGS[self.text.text_cleaning](text)).ids)
        if self.text.fixed_length is not None:
            ids += [self.text.pad_id] * (self.text.fixed_length - len(ids))
        return ids

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [np.array(self.ids(text), dtype=np.int64) for text in texts]
        lengths = np.array([row.size for row in rows], dtype=np.int32)
        return self.text_engine.run(np.concatenate(rows), lengths)

    def images(self, count: int) -> NDArray[np.uint8]:
        assert self.image.image is not None
        height, width = self.image.image.height, self.image.image.width
        # Patches and not pixels: a tower sees one noise as like the other.
        patches = np.random.default_rng(3).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        images = patches.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)
        return images[:, :height, :width]


def convert_clip(root: Path, model_name: str, pretrained: str = "") -> ConvertedClip:
    """Convert from `root / "sources"` into `root / "repository"`."""
    request = Request(
        model_name=model_name,
        output=root / "repository",
        revision=None,
        sources=[root / "sources"],
        trust_remote_code=False,
        threads=2,
        locked=False,
    )
    converted = pipeline.run(request, pretrained, Steps())
    return ConvertedClip(Repository(request.output), converted)


class OpenClip:
    """The same model as open_clip runs it from a directory."""

    def __init__(self, directory: Path) -> None:
        name = f"local-dir:{directory}"
        self.model = open_clip.create_model(name, pretrained_text=False)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.transform = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer([text])[0].tolist())

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.model.encode_text(self.tokenizer(list(texts))))

    def images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.stack([self.transform(Image.fromarray(image)) for image in images])
        with torch.inference_mode():
            return np.asarray(self.model.encode_image(pixels))
