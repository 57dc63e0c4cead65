"""The bodies of Text Embeddings Inference's API: requests, answers, examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StrictInt

from gateway.dialects import openai
from gateway.schemas import RequestBody
from gateway.text_options import Direction, TextOptions

EXAMPLE_IDS = [101, 7592, 102]
TEXT_EXAMPLES: dict[str, Any] = {
    "texts": {"inputs": ["a diver", "a dog"]},
    "a text, shortened": {"inputs": "a diver", "truncate": True},
}
SIMILARITY_EXAMPLE = {"inputs": {"source_sentence": "a diver", "sentences": ["a swimmer", "a dog"]}}

Ids = list[StrictInt]


class Options(RequestBody):
    """What is done to the texts."""

    truncate: bool | None = Field(
        False, description="Shorten a text that is too long; false: refuse it with 413."
    )
    truncation_direction: Annotated[
        Direction, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
    ] = Field("right", description="The end that is shortened.")
    prompt_name: str | None = Field(
        None, description="One of the model's prompts; unset: its default prompt."
    )

    def text_options(self) -> TextOptions:
        """The fields as the tokenizer knows them."""
        return TextOptions(
            self.prompt_name, truncate=bool(self.truncate), truncation_direction=self.truncation_direction
        )


class EmbedAllRequest(Options):
    """Body of `/embed_all`."""

    inputs: Annotated[
        str | list[str] | Ids | list[Ids],
        Field(
            union_mode="left_to_right",
            description="A text, texts, the token ids of a text, or of texts.",
            examples=["What is Deep Learning?"],
        ),
    ]


class EmbedRequest(EmbedAllRequest):
    """Body of `/embed`."""

    normalize: bool = Field(True, description="Scale every vector to unit length.")
    dimensions: int | None = Field(
        None, ge=1, description="Keep so many dimensions, the first ones, and scale to unit length again."
    )


class SimilarityInput(BaseModel):
    """What is compared with what."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(RequestBody):
    """Body of `/similarity`."""

    inputs: SimilarityInput = Field(description="A sentence, and those that it is compared with.")
    parameters: Options | None = Field(None, description="What is done to all of them.")


class TokenizeRequest(RequestBody):
    """Body of `/tokenize`."""

    inputs: str | list[str] = Field(description="A text, or a list of them.")
    add_special_tokens: bool = Field(True, description="Put them around, where the model has them.")
    prompt_name: str | None = Field(
        None, description="One of the model's prompts; unset: its default prompt."
    )


class DecodeRequest(RequestBody):
    """Body of `/decode`."""

    ids: Annotated[
        Ids | list[Ids],
        Field(union_mode="left_to_right", description="Of one text, or of several.", examples=[EXAMPLE_IDS]),
    ]
    skip_special_tokens: bool = Field(True, description="Leave them out of the text.")


class RootRequest(RequestBody):
    """Body of the base URL itself, of `/embed` or of `/similarity`."""

    inputs: Any = Field(description="As `/embed` takes them, or as `/similarity`.")


class OpenAIRequest(openai.EmbeddingsRequest):
    """Body of `/v1/embeddings`; the model is that of the URL, whatever `model` says."""

    model: str = Field("", description="Not used.")


class SimpleToken(BaseModel):
    """One token; start and stop in characters of the text, null for special ones."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(BaseModel):
    """Answer of `/info`; `pooling` is null, it is part of the model."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[Literal["embedding"], dict[Literal["pooling"], None]]
    max_input_length: int | None
    max_client_batch_size: int
    auto_truncate: bool
    version: str


class TEIError(BaseModel):
    """Every error's body."""

    error: str
    error_type: str
