"""True architectures of open_clip with seeded random weights: slow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from converters.clip.check_texts import CLIP_EDGE_TEXTS, clip_texts
from tests.support import tiny_tokenizers
from tests.support.clip_conversion import ConvertedClip, convert_clip
from tests.support.tiny_clip import write_checkpoint
from triton_models.contract.accuracy import LEAST_COSINE, cosines

Tokenizer = Callable[[list[str]], torch.Tensor]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("model_name", "attention"),
    [("ViT-B-32", "packed"), ("RN50", "packed"), ("coca_ViT-B-32", "padded"), ("MobileCLIP-S1", "padded")],
)
def test_a_true_architecture(model_name: str, attention: str, sources: Path, tmp_path: Path) -> None:
    path = sources / "weights.pt"
    write_checkpoint(path, model_name)
    converted = convert_clip(tmp_path, model_name, path.name)
    assert converted.text.attention == attention
    compare(converted, model_name, path, open_clip.get_tokenizer(model_name))


def test_siglip_with_a_tokenizer_of_its_kind(sources: Path, tmp_path: Path) -> None:
    # Its own tokenizer is on the Hub only; the towers have their true shape.
    name = "ViT-B-16-SigLIP"
    config = open_clip.get_model_config(name)["text_cfg"]
    directory = sources / config["hf_tokenizer_name"]
    tiny_tokenizers.unigram(ends=True).save_pretrained(directory)
    path = sources / "weights.pt"
    write_checkpoint(path, name)
    converted = convert_clip(tmp_path, name, path.name)
    assert (converted.text.attention, converted.text.fixed_length) == ("padded", config["context_length"])
    tokenizer = HFTokenizer(str(directory), config["context_length"], **config["tokenizer_kwargs"])
    compare(converted, name, path, tokenizer)


def compare(converted: ConvertedClip, model_name: str, path: Path, tokenizer: Tokenizer) -> None:
    model = open_clip.create_model(model_name, pretrained=str(path), pretrained_text=False).eval()
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    texts = [*CLIP_EDGE_TEXTS, *clip_texts()[60:160:5]]
    images = converted.images(4)
    with torch.inference_mode():
        text_vectors = model.encode_text(tokenizer(texts)).numpy()
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        image_vectors = model.encode_image(pixels).numpy()
    assert cosines(converted.embed(texts), text_vectors).min() >= LEAST_COSINE
    found = converted.image_engine.run(np.asarray(images))
    assert cosines(found, image_vectors).min() >= LEAST_COSINE
