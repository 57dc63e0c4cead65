import dataclasses

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.support.tiny_repository import manifest
from triton_models.contract.config import (
    ConfigError,
    Tuning,
    from_text,
    model_config,
    served_versions,
    to_text,
    with_versions,
)
from triton_models.contract.manifest import ImagePreprocessing

MANIFEST = manifest("tiny", b"", sha256="0123456789ab" + "0" * 52)

GOLDEN = """
name: "tiny"
version_policy { specific { versions: 1250999896491 } }
max_batch_size: 128
input { name: "input_ids" data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }
output { name: "sentence_embedding" data_type: TYPE_FP32 dims: 8 }
instance_group { count: 1 }
dynamic_batching { }
backend: "onnxruntime"
batch_input {
  kind: BATCH_ITEM_SHAPE target_name: "item_shape" data_type: TYPE_INT32 source_input: "input_ids"
}
response_cache { enable: true }
"""


def test_the_text_is_the_contract() -> None:
    assert to_text(model_config("tiny", MANIFEST)).split() == GOLDEN.split()


IMAGE_GOLDEN = """
name: "tiny"
version_policy { specific { versions: 1250999896491 } }
max_batch_size: 64
input { name: "image" data_type: TYPE_UINT8 dims: 4 dims: 6 dims: 3 }
output { name: "image_embedding" data_type: TYPE_FP32 dims: 8 }
instance_group { count: 1 }
dynamic_batching { }
backend: "onnxruntime"
response_cache { enable: true }
"""


def test_vectors_of_tokens_are_no_output_of_the_configuration() -> None:
    # NVIDIA's backend would slice it by rows.
    with_tokens = dataclasses.replace(MANIFEST, token_dimensions=8)
    assert model_config("tiny", with_tokens) == model_config("tiny", MANIFEST)


def test_an_image_tower_takes_images_of_one_size() -> None:
    tower = dataclasses.replace(MANIFEST, tower="image", image=ImagePreprocessing(4, 6, "squash", "bicubic"))
    assert to_text(model_config("tiny", tower)).split() == IMAGE_GOLDEN.split()


def test_text_and_message_are_one() -> None:
    config = Tuning(max_batch_size=3, instances=2).apply(model_config("tiny", MANIFEST))
    assert text_format.Parse(to_text(config), ModelConfig()) == config
    assert from_text(to_text(config)) == config
    assert (config.max_batch_size, config.instance_group[0].count) == (3, 2)


def test_names_that_need_quoting_survive() -> None:
    assert from_text(to_text(model_config('a"b\\c', MANIFEST))).name == 'a"b\\c'


def test_the_version_is_the_contents() -> None:
    assert served_versions(model_config("tiny", MANIFEST)) == [int("0123456789ab", 16)]


@pytest.mark.parametrize("text", ["name: ", "nonsense: 1", "{", "\x00"])
def test_damaged_text_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(ConfigError):
        from_text(text)


@pytest.mark.parametrize("text", ["", "version_policy { all {} }"])
def test_a_version_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="no version"):
        served_versions(from_text(text))


def test_another_version_may_stand_beside() -> None:
    config = model_config("tiny", MANIFEST)
    assert served_versions(with_versions(config, [7, 5])) == [7, 5]
    assert len(served_versions(config)) == 1
