"""Triton's `config.pbtxt`, built as the protobuf message that it is.

Knows the model contract (input and output names, ragged batching); knows nothing about files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from triton_models.contract.manifest import ImagePreprocessing, Manifest

BACKEND = "onnxruntime"
"""Triton's backend by this name: the C++ one in NVIDIA's container, else `backends/onnxruntime`."""

INPUT = "input_ids"
"""Requests: int64 [b, L] on the wire; the graph gets all rows of a batch flat, [total_tokens]."""

ITEM_SHAPE = "item_shape"
"""Made by Triton from INPUT's shapes: int32 [batch, 1], the length of each row."""

OUTPUT = "sentence_embedding"
"""float32 [b, D]; of requests with the flag WANTS_TOKENS, from our backend alone, [b, L, H]."""

IMAGE_INPUT = "image"
"""uint8 [b, H, W, 3]: RGB, of the size that the manifest's `image` names."""

IMAGE_OUTPUT = "image_embedding"
"""float32 [b, D]."""

THREADS_PARAMETER = "intra_op_thread_count"
"""Understood by the C++ backend and by ours. Absent: all cores."""

DEFAULT_IMAGE_BATCH_SIZE = 64
"""The same of an image tower, where one execution of more would keep the others waiting for long."""

DEFAULT_MAX_BATCH_SIZE = 128
"""Rows that Triton merges into one execution at most; the reason is in docs/architecture.md."""

QUEUE_TIMEOUT_MICROSECONDS = 120_000_000
"""How long a request may wait in a bounded queue; its own `timeout`, a parameter, can only be shorter."""


class ConfigError(ValueError):
    """`config.pbtxt` is not what this project writes."""


@dataclass(frozen=True)
class Tuning:
    """What an operator sets of one model's configuration; None leaves it as it is.

    max_batch_size: rows merged into one execution, at least 1. max_queue_delay_microseconds: how long
    Triton holds a request back to merge more. instances: executions at a time, on each GPU or on the CPU.
    response_cache: whether Triton's cache, where it has one, keeps this model's answers.
    max_queue_size: requests that may wait in Triton's own queue, 0 for no bound; see `_bound_queue`.
    """

    max_batch_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    instances: int | None = None
    response_cache: bool | None = None
    max_queue_size: int | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> "Tuning":
        """What a configuration says, nothing left out."""
        return cls(
            config.max_batch_size,
            config.dynamic_batching.max_queue_delay_microseconds,
            config.instance_group[0].count if config.instance_group else 1,
            config.response_cache.enable,
            config.dynamic_batching.default_queue_policy.max_queue_size,
        )

    def apply(self, config: ModelConfig) -> ModelConfig:
        """A copy of the configuration with this set."""
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


def model_config(
    served: str,
    manifest: Manifest,
    *,
    max_batch_size: int | None = None,
    instances: int = 1,
    threads: int | None = None,
) -> ModelConfig:
    """The configuration of one text model or one tower of a CLIP model.

    served: name in Triton. max_batch_size: None for the default of its kind.
    instances: executions at a time, on each GPU or on the CPU; one merges most and costs the memory of one
    copy (without a word about it Triton starts two on a CPU).
    threads: of one execution on the CPU; None leaves it to the backend.

    Raises:
        ValueError: max_batch_size below 1; batching needs a batch dimension.

    """
    if max_batch_size is None:
        max_batch_size = DEFAULT_MAX_BATCH_SIZE if manifest.image is None else DEFAULT_IMAGE_BATCH_SIZE
    if max_batch_size < 1:
        raise ValueError("max_batch_size must be at least 1")
    config = ModelConfig(name=served, backend=BACKEND, max_batch_size=max_batch_size)
    if manifest.image is not None:
        _add_image(config, manifest.image, manifest.dimensions)
    else:
        _add_text(config, manifest.dimensions)
    # KIND_AUTO, the default, is the GPU where Triton has one, else the CPU.
    config.instance_group.add(count=instances)
    config.dynamic_batching.SetInParent()
    config.response_cache.enable = True
    config.version_policy.specific.versions.append(manifest.version)
    if threads is not None:
        config.parameters[THREADS_PARAMETER].string_value = str(threads)
    return config


def _add_text(config: ModelConfig, dimensions: int) -> None:
    config.input.add(name=INPUT, data_type=model_config_pb2.TYPE_INT64, dims=[-1], allow_ragged_batch=True)
    config.batch_input.add(
        kind=model_config_pb2.BatchInput.BATCH_ITEM_SHAPE,
        target_name=[ITEM_SHAPE],
        data_type=model_config_pb2.TYPE_INT32,
        source_input=[INPUT],
    )
    config.output.add(name=OUTPUT, data_type=model_config_pb2.TYPE_FP32, dims=[dimensions])


def _add_image(config: ModelConfig, image: ImagePreprocessing, dimensions: int) -> None:
    # All images of a model are of one size, so equal bytes mean equal shape, as the response cache needs.
    dims = [image.height, image.width, 3]
    config.input.add(name=IMAGE_INPUT, data_type=model_config_pb2.TYPE_UINT8, dims=dims)
    config.output.add(name=IMAGE_OUTPUT, data_type=model_config_pb2.TYPE_FP32, dims=[dimensions])


def _bound_queue(config: ModelConfig, most: int) -> None:
    """Bound the batcher's queue to `most` requests, and drop what has waited there for too long; 0: neither.

    Any policy of the queue (a bound, a limit of time, priorities) makes Triton 2.51 prepare no batch while
    one is computed, and then a request that comes meanwhile waits for the next one or for half a second.
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
    """The text of `config.pbtxt`."""
    text: str = text_format.MessageToString(config)
    return text


def from_text(text: str) -> ModelConfig:
    """Read `config.pbtxt`.

    Raises:
        ConfigError: not the text form of a ModelConfig.

    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(f"config.pbtxt cannot be read: {error}") from error


def served_versions(config: ModelConfig) -> list[int]:
    """The versions that the configuration names: first the one that requests are for.

    A second one stands beside it for as long as one of the two takes the other's place.

    Raises:
        ConfigError: it names none.

    """
    versions = [int(version) for version in config.version_policy.specific.versions]
    if not versions:
        raise ConfigError("config.pbtxt names no version")
    return versions


def with_versions(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """A copy of the configuration that names these versions, in this order."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.version_policy.specific.versions[:] = versions
    return changed
