"""The bodies of requests and answers, except those of the embedding routes."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from gateway.api.base_schemas import RequestBody
from gateway.model_id import ModelId
from gateway.models.status import RepositoryModel
from triton_models.contract.config import Tuning
from triton_models.contract.names import HUB_PREFIX, REVISION, validate_model_name, validate_revision

MODEL_EXAMPLE = "sentence-transformers/all-MiniLM-L6-v2"
CLIP_EXAMPLE = "ViT-B-32"
PRETRAINED_EXAMPLE = "laion2b_s34b_b79k"
IMAGE_EXAMPLE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAKUlEQVR42g3HMQEAAAzC"
    "MCQiqVIqEQlbviShwbCQlBbL+pGKMj+jw7Fx8cMXAX1krH0AAAAASUVORK5CYII="
)
"""An image of 4 by 4 pixels, so that the examples need no other host."""


def _model_name(value: str) -> str:
    validate_model_name(value)
    return value


def _any_model_name(value: str) -> str:
    validate_model_name(value.removeprefix(HUB_PREFIX))
    return value


def _revision(value: str) -> str:
    validate_revision(value)
    return value


_NAME = "As the Hub or a directory of MODEL_SOURCES names it"
ModelName = Annotated[
    str, AfterValidator(_model_name), Field(description=f"{_NAME}.", examples=[MODEL_EXAMPLE])
]
AnyModelName = Annotated[
    str,
    AfterValidator(_any_model_name),
    Field(
        description=f"{_NAME}; of a CLIP model its architecture, or `hf-hub:OWNER/NAME`.",
        examples=[MODEL_EXAMPLE, CLIP_EXAMPLE],
    ),
]


class _TuningFields(RequestBody):
    """Fields for how Triton runs a model; an unset field keeps its value, at first the best one measured."""

    max_batch_size: int | None = Field(
        None, ge=1, le=1024, description="Inputs that Triton merges into one execution at most."
    )
    max_queue_delay_microseconds: int | None = Field(
        None, ge=0, le=1_000_000, description="How long Triton holds an input back to merge more with it."
    )
    instances: int | None = Field(
        None, ge=1, le=64, description="Executions at a time, on each GPU or on the CPU; each takes memory."
    )
    response_cache: bool | None = Field(
        None, description="Whether Triton keeps answers of this model, where it has a response cache."
    )
    max_queue_size: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Requests that may wait in Triton's own queue, 0 for no bound. For a Triton that others "
        "call too: with a bound, a request that comes alone while another is computed waits half a second.",
    )

    def tuning(self) -> Tuning:
        """Return the tuning that the fields describe."""
        return Tuning(**{name: getattr(self, name) for name in _TuningFields.model_fields})


class LoadSentenceTransformer(_TuningFields):
    """Body of `POST /load_sentence_transformer_model`."""

    model_name: ModelName
    revision: Annotated[str, Field(pattern=f"^{REVISION}$"), AfterValidator(_revision)] | None = Field(
        None, description="Branch, tag or commit on the Hub; unset: what is there, else the default branch."
    )


class ModelReference(RequestBody):
    """Body of `POST /unload_model` and `POST /delete_model`."""

    model_name: AnyModelName
    pretrained: str | None = Field(
        None,
        description="Of a CLIP model: a tag of open_clip or a checkpoint file's name; none for `hf-hub:`.",
        examples=[PRETRAINED_EXAMPLE],
    )

    @model_validator(mode="after")
    def _can_be_a_model(self) -> Self:
        self.model_id()
        return self

    def model_id(self) -> ModelId:
        """Return the identity of the model."""
        return ModelId.named(self.model_name, self.pretrained)


class LoadClip(ModelReference, _TuningFields):
    """Body of `POST /load_clip_model`."""

    @model_validator(mode="after")
    def _is_clip(self) -> Self:
        if not self.model_id().is_clip:
            raise ValueError(f"pretrained: needed, unless model_name begins with {HUB_PREFIX}")
        return self


class Message(BaseModel):
    """Answer of the routes that load, unload or delete a model."""

    message: str


class LoadedModels(BaseModel):
    """Answer of `GET /loaded_models`: names in Triton."""

    models: list[str]


class RepositoryModels(BaseModel):
    """Answer of `GET /repository_models`."""

    models: list[RepositoryModel]


class Metrics(BaseModel):
    """Answer of `GET /metrics`: Triton's statistics of each model."""

    model_stats: list[dict[str, Any]]


class ErrorDetail(BaseModel):
    """Body of every error."""

    detail: str
