"""The bodies of ingrain's API: requests, answers, examples."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from gateway.api.base_schemas import RequestBody
from gateway.api.embedding_schemas import Dimensions, Images, Texts, TimeoutField
from gateway.api.schemas import CLIP_EXAMPLE, IMAGE_EXAMPLE, MODEL_EXAMPLE, PRETRAINED_EXAMPLE
from gateway.model_id import ModelId
from triton_models.contract.names import HUB_PREFIX

NAME = {"name": MODEL_EXAMPLE}
TEXTS: dict[str, Any] = {**NAME, "text": ["a diver", "a dog"], "nDims": 128}
IMAGES: dict[str, Any] = {"name": CLIP_EXAMPLE, "pretrained": PRETRAINED_EXAMPLE, "image": [IMAGE_EXAMPLE]}


def _no_headers(value: dict[str, Any] | None) -> None:
    if value:
        raise ValueError("headers are not sent to the hosts of images; send these images as base64")


class Named(RequestBody):
    """Body of `POST /unload_model` and `DELETE /delete_model` of ingrain's client, and base of the others."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    is_dialect = True

    name: str = Field(
        description="Of the model, in one word; of a CLIP model `NAME/PRETRAINED`.",
        examples=[MODEL_EXAMPLE, "ViT-B-32/laion2b_s34b_b79k"],
    )
    pretrained: str | None = Field(None, description="Of a CLIP model whose name does not have it.")

    @model_validator(mode="after")
    def _can_be_a_model(self) -> Self:
        if self.pretrained is not None:
            ModelId.named(self.name, self.pretrained)
        return self


class NameOrModelName(BaseModel):
    """The fields that distinguish a native body from a body of ingrain's client."""

    model_config = ConfigDict(protected_namespaces=())

    name: Any = None
    model_name: Any = None

    @property
    def is_named(self) -> bool:
        """True for a body of ingrain's client."""
        return self.name is not None and self.model_name is None


class LoadModel(Named):
    """Body of `POST /load_model`; the library `timm` is missing, since this server has no classifiers."""

    library: Literal["open_clip", "sentence_transformers"] = Field(description="That the model is of.")

    @model_validator(mode="after")
    def _is_of_the_library(self) -> Self:
        self.model_id()
        return self

    def model_id(self) -> ModelId:
        """Return the identity of the model; for CLIP, `pretrained` may follow the name after `/` or `:`."""
        if self.library == "sentence_transformers" or self.pretrained is not None:
            return ModelId.named(self.name, self.pretrained)
        name = self.name if self.name.startswith(HUB_PREFIX) else self.name.replace("/", ":", 1)
        model_id = ModelId.parse(name)
        if not model_id.is_clip:
            raise ValueError(f"name: a CLIP model is NAME/PRETRAINED or {HUB_PREFIX}OWNER/NAME")
        return model_id


class EmbedFields(Named, TimeoutField):
    """Fields that all embedding routes accept."""

    normalize: bool | None = Field(True, description="Scale every vector to unit length.")
    n_dims: Dimensions = None


class EmbedText(EmbedFields):
    """Body of `POST /embed_text`."""

    text: Texts


class _Images(Named):
    image_download_headers: Annotated[dict[str, Any] | None, AfterValidator(_no_headers)] = Field(
        None, description="Refused: headers are not sent to the hosts of images."
    )


class EmbedImage(EmbedFields, _Images):
    """Body of `POST /embed_image`."""

    image: Images


class Embed(EmbedFields, _Images):
    """Body of `POST /embed`."""

    text: Texts | None = Field(None, description="A text, or a list of them.")
    image: Images | None = Field(None, description="An http(s) URL, a data URI or base64, or a list of them.")

    @model_validator(mode="after")
    def _some_input(self) -> Self:
        if self.text is None and self.image is None:
            raise ValueError("give text, image or both")
        return self


class EmbedAnswer(BaseModel):
    """Answer of `POST /embed_text` and `POST /embed_image`."""

    embeddings: list[list[float]]
    processingTimeMs: float  # noqa: N815 - the original's spelling


class EmbedBothAnswer(BaseModel):
    """Answer of `POST /embed`; the embeddings of a missing input are null."""

    textEmbeddings: list[list[float]] | None  # noqa: N815 - the original's spelling
    imageEmbeddings: list[list[float]] | None  # noqa: N815 - the original's spelling
    processingTimeMs: float  # noqa: N815 - the original's spelling


class EmbeddingSize(BaseModel):
    """Answer of `GET /model_embedding_size`."""

    embeddingSize: int  # noqa: N815 - the original's spelling


class LoadedModel(BaseModel):
    """One model of `GET /loaded_models`, as ingrain's client reads it."""

    name: str
    library: Literal["open_clip", "sentence_transformers"]


class LoadedModelObjects(BaseModel):
    """Answer of `GET /loaded_models` to ingrain's client."""

    models: list[LoadedModel]
