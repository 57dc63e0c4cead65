"""The bodies of Text Embeddings Inference's API: requests, answers, examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from gateway.api.base_schemas import Nested, RequestBody
from gateway.api.dialects import openai
from gateway.api.dialects.openai import Ids
from gateway.api.embedding_schemas import Dimensions, Strings
from gateway.text.prompts import Direction, TextOptions

EXAMPLE_IDS = [101, 7592, 102]
TEXT_EXAMPLES: dict[str, Any] = {
    "texts": {"inputs": ["a diver", "a dog"]},
    "a text, shortened": {"inputs": "a diver", "truncate": True},
}
SIMILARITY_EXAMPLE = {"inputs": {"source_sentence": "a diver", "sentences": ["a swimmer", "a dog"]}}

SeveralIds = Annotated[list[Ids], Field(fail_fast=True)]
TextsOrIds = str | Strings | Ids | SeveralIds
PromptName = Annotated[
    str | None, Field(description="One of the model's prompts; unset: its default prompt.")
]


class TEIBody(RequestBody):
    """Base of all bodies of TEI's API."""

    is_dialect = True
    harmless = frozenset({"model"})


class Options(TEIBody):
    """Fields for the preparation of texts: truncation and prompt."""

    truncate: bool | None = Field(
        False, description="Shorten a text that is too long; false: refuse it with 413."
    )
    truncation_direction: Annotated[
        Direction | None, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
    ] = Field("right", description="The end that is shortened.")
    prompt_name: PromptName = None

    def text_options(self) -> TextOptions:
        """Return the options of the tokenizer that the fields describe."""
        return TextOptions(
            self.prompt_name,
            truncate=bool(self.truncate),
            truncation_direction=self.truncation_direction or "right",
        )


class EmbedAllRequest(Options):
    """Body of `/embed_all`."""

    inputs: Annotated[
        TextsOrIds,
        Field(
            union_mode="left_to_right",
            description="A text, texts, the token ids of a text, or of texts.",
            examples=["What is Deep Learning?"],
        ),
    ]


class EmbedRequest(EmbedAllRequest):
    """Body of `/embed`."""

    normalize: bool | None = Field(
        True, description="Scale every vector to unit length; false: as the model gives them."
    )
    dimensions: Dimensions = None


class SimilarityInput(Nested):
    """A sentence, and the sentences to compare it with."""

    source_sentence: str
    sentences: Strings


class Parameters(Options, Nested):
    """Options for the sentences of `/similarity`."""


class SimilarityRequest(TEIBody):
    """Body of `/similarity`."""

    inputs: SimilarityInput = Field(description="A sentence, and those that it is compared with.")
    parameters: Parameters | None = Field(None, description="What is done to all of them.")


class TokenizeRequest(TEIBody):
    """Body of `/tokenize`."""

    inputs: str | Strings = Field(description="A text, or a list of them.")
    add_special_tokens: bool | None = Field(True, description="Put them around, where the model has them.")
    prompt_name: PromptName = None


class DecodeRequest(TEIBody):
    """Body of `/decode`."""

    ids: Annotated[
        Ids | SeveralIds,
        Field(union_mode="left_to_right", description="Of one text, or of several.", examples=[EXAMPLE_IDS]),
    ]
    skip_special_tokens: bool | None = Field(True, description="Leave them out of the text.")


class RootRequest(EmbedRequest):
    """Body of the base URL itself: a body of `/embed` or of `/similarity`."""

    inputs: Annotated[  # type: ignore[assignment]
        TextsOrIds | SimilarityInput | dict[str, Any],
        Field(union_mode="left_to_right", description="As `/embed` takes them, or as `/similarity`."),
    ]
    parameters: Parameters | None = Field(None, description="As of `/similarity`.")


class OpenAIRequest(openai.EmbeddingsRequest):
    """Body of `/v1/embeddings`; the URL selects the model, and `model` is ignored."""

    model: str | None = Field("", description="Not used.")  # type: ignore[assignment]


class SimpleToken(BaseModel):
    """One token; `start` and `stop` count characters of the text and are null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(BaseModel):
    """Answer of `/info`, with all fields that TEI's schema requires.

    `pooling` is `model`, since pooling is part of the model. `max_input_length` is in tokens; for a model
    without a limit, it is the number of characters that a text may have. `max_concurrent_requests` is the
    number of requests that are accepted before any is refused. `max_batch_tokens` is for a full batch of long
    texts.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[Literal["embedding", "reranker", "classifier"], dict[str, Any]]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class TEIError(BaseModel):
    """Body of every error."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
