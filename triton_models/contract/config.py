"""Triton's `config.pbtxt`, built as a protobuf message.

This module knows the model contract (input and output names, ragged batching) and nothing about files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from triton_models.contract.manifest import ImagePreprocessing, Manifest

BACKEND = "onnxruntime"
"""The name of Triton's backend: the C++ one in NVIDIA's container, otherwise `backends/onnxruntime`."""

INPUT = "input_ids"
"""The input of a text model: int64 [b, L] in a request; the graph receives a batch flat, [total_tokens]."""

ITEM_SHAPE = "item_shape"
"""The graph's second input, made by Triton from INPUT's shapes: int32 [batch, 1], the length of each row."""

OUTPUT = "sentence_embedding"
"""The output of a text model: float32 [b, D]; for the flag WANTS_TOKENS, in our backend only, [b, L, H]."""

SCORES = "scores"
"""The output of a cross-encoder: float32 [b, labels], the logits of pairs."""

IMAGE_INPUT = "image"
"""The input of an image tower: uint8 [b, H, W, 3], RGB, of the size in the manifest's `image`."""

IMAGE_OUTPUT = "image_embedding"
"""The output of an image tower: float32 [b, D]."""

DEFAULT_IMAGE_BATCH_SIZE = 64
"""The most images that Triton merges into one execution; a larger one would keep other requests waiting."""

DEFAULT_MAX_BATCH_SIZE = 128
"""The most rows of text that Triton merges into one execution; docs/concepts/engines.md gives the reason."""

QUEUE_TIMEOUT_MICROSECONDS = 120_000_000
"""The longest wait in a bounded queue; a request's own parameter `timeout` can only shorten it."""


class ConfigError(ValueError):
    """`config.pbtxt` cannot be read, or does not name a version as this project's files do."""


@dataclass(frozen=True)
class Tuning:
    """The operator's settings for one model's configuration; None leaves a value as it is.

    Attributes:
        max_batch_size: Rows merged into one execution, at least 1.
        max_queue_delay_microseconds: How long Triton holds a request back to merge more with it.
        instances: Concurrent executions, on each GPU or on the CPU.
        response_cache: Whether Triton's response cache, where there is one, keeps this model's answers.
        max_queue_size: Requests that may wait in Triton's own queue, 0 for no bound; see `_bound_queue`.
    """

    max_batch_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    instances: int | None = None
    response_cache: bool | None = None
    max_queue_size: int | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> "Tuning":
        """Return the settings of a configuration; none of them is None."""
        return cls(
            config.max_batch_size,
            config.dynamic_batching.max_queue_delay_microseconds,
            config.instance_group[0].count if config.instance_group else 1,
            config.response_cache.enable,
            config.dynamic_batching.default_queue_policy.max_queue_size,
        )

    def apply(self, config: ModelConfig) -> ModelConfig:
        """Return a copy of the configuration with these settings."""
        tuned = ModelConfig()
        tuned.CopyFrom(config)
        if self.max_batch_size is not None:
            tuned.max_batch_size = self.max_batch_size
        if self.max_queue_delay_microseconds is not None:
            tuned.dynamic_batching.max_queue_delay_microseconds = self.max_queue_delay_microseconds
        if self.instances is not None:
            (tuned.instance_group or [tuned.instance_group.add()])[0].count = self.instances
        if self.response_cache is not None:
            tuned.response_cache.enable = self.response_cache
        if self.max_queue_size is not None:
            _bound_queue(tuned, self.max_queue_size)
        return tuned


def model_config(triton_name: str, manifest: Manifest) -> ModelConfig:
    """Return the configuration of one text model or one tower of a CLIP model, before any tuning.

    Args:
        triton_name: Name in Triton.
        manifest: The converted model's manifest.
    """
    config = ModelConfig(name=triton_name, backend=BACKEND)
    if manifest.image is not None:
        _add_image(config, manifest.image, manifest.dimensions)
    else:
        _add_text(config, output_of(manifest), manifest.dimensions)
    # One instance merges the most requests and takes the memory of one copy; by default, Triton starts two on
    # a CPU. The default kind, KIND_AUTO, is the GPU if Triton has one, otherwise the CPU.
    config.instance_group.add(count=1)
    config.dynamic_batching.SetInParent()
    config.response_cache.enable = True
    config.version_policy.specific.versions.append(manifest.version)
    return config


def output_of(manifest: Manifest) -> str:
    """Return the name of the output of a model that is no image tower."""
    return SCORES if manifest.kind == "cross-encoder" else OUTPUT


def _add_text(config: ModelConfig, output: str, dimensions: int) -> None:
    config.max_batch_size = DEFAULT_MAX_BATCH_SIZE
    config.input.add(name=INPUT, data_type=model_config_pb2.TYPE_INT64, dims=[-1], allow_ragged_batch=True)
    config.batch_input.add(
        kind=model_config_pb2.BatchInput.BATCH_ITEM_SHAPE,
        target_name=[ITEM_SHAPE],
        data_type=model_config_pb2.TYPE_INT32,
        source_input=[INPUT],
    )
    config.output.add(name=output, data_type=model_config_pb2.TYPE_FP32, dims=[dimensions])


def _add_image(config: ModelConfig, image: ImagePreprocessing, dimensions: int) -> None:
    config.max_batch_size = DEFAULT_IMAGE_BATCH_SIZE
    # All images of a model have one size. So equal bytes mean equal shapes, as the response cache requires.
    dims = [image.height, image.width, 3]
    config.input.add(name=IMAGE_INPUT, data_type=model_config_pb2.TYPE_UINT8, dims=dims)
    config.output.add(name=IMAGE_OUTPUT, data_type=model_config_pb2.TYPE_FP32, dims=[dimensions])


def _bound_queue(config: ModelConfig, most: int) -> None:
    """Bound the batcher's queue to `most` requests and drop those that wait too long; 0 does neither.

    With any queue policy (a bound, a time limit, priorities) Triton 2.51 prepares no batch while another is
    computed. A request that arrives meanwhile then waits for the next request or for half a second.
    """
    batching = config.dynamic_batching
    for field in ("priority_levels", "default_priority_level", "default_queue_policy"):
        batching.ClearField(field)
    if most:
        policy = batching.default_queue_policy
        policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
        policy.default_timeout_microseconds = QUEUE_TIMEOUT_MICROSECONDS
        policy.allow_timeout_override = True
        policy.max_queue_size = most


def to_text(config: ModelConfig) -> str:
    """Return the text of `config.pbtxt`."""
    text: str = text_format.MessageToString(config)
    return text


def from_text(text: str) -> ModelConfig:
    """Read `config.pbtxt`.

    Raises:
        ConfigError: The text is not that of a ModelConfig.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(f"config.pbtxt cannot be read: {error}") from error


def served_versions(config: ModelConfig) -> list[int]:
    """Return the versions that the configuration names, first the one that requests are for.

    There is a second one only while a new version replaces an old one.

    Raises:
        ConfigError: The configuration names no version.
    """
    versions = [int(version) for version in config.version_policy.specific.versions]
    if not versions:
        raise ConfigError("config.pbtxt names no version")
    return versions


def with_versions(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """Return a copy of the configuration that names these versions, in this order."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.version_policy.specific.versions[:] = versions
    return changed
