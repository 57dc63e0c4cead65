"""The bodies of the routes that score pairs of texts: requests, answers, examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.api.dialects.openai_schemas import Usage
from gateway.api.embedding_schemas import Strings, TimeoutField
from gateway.text.prompts import Direction, TextOptions
from triton_models.contract.manifest import Activation

QUERY = "how deep do divers go?"
DOCUMENTS = ["A diver rarely goes below 40 m.", "Dogs like water."]
MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
RERANK_EXAMPLES: dict[str, Any] = {
    "as CrossEncoder.predict": {"model_name": MODEL, "query": QUERY, "documents": DOCUMENTS},
    "Cohere, Jina, vLLM": {"model": MODEL, "query": QUERY, "documents": DOCUMENTS, "top_n": 1},
    "TEI": {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True},
    "Weaviate": {"query": QUERY, "documents": DOCUMENTS, "property": ""},
}
PREDICT_EXAMPLES: dict[str, Any] = {
    "a pair": {"inputs": [QUERY, DOCUMENTS[0]]},
    "pairs": {"inputs": [[QUERY, DOCUMENTS[0]], [QUERY, DOCUMENTS[1]]]},
}
SCORE_EXAMPLES: dict[str, Any] = {
    "a query and documents": {"model": MODEL, "queries": QUERY, "documents": DOCUMENTS},
    "pairs": {"model": MODEL, "text_1": [QUERY, QUERY], "text_2": DOCUMENTS},
}


class TextObject(BaseModel):
    """A text as Cohere's and Jina's APIs may send it; other fields of the object are ignored."""

    model_config = ConfigDict(extra="ignore")

    text: str


Lowered = Annotated[
    Direction | None, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
]
Documents = Annotated[list[str | TextObject], Field(fail_fast=True)]
ModelField = Annotated[
    str | None,
    Field(description="The model's name in one word; unset: the only cross-encoder that is loaded."),
]


class PairOptions(TimeoutField):
    """Fields that all routes for pairs accept; unknown ones are ignored, as the other servers do."""

    is_dialect = True
    ignores_unknown = True

    model: ModelField = None
    raw_scores: bool | None = Field(False, description="Answer logits, to which no activation was applied.")
    use_activation: bool | None = Field(None, description="False means the same as `raw_scores`.")
    truncate: bool | None = Field(
        True, description="Shorten pairs longer than the model takes; false: refuse them."
    )
    truncation_direction: Lowered = Field(None, description="The end of both texts that is shortened.")

    @property
    def wants_logits(self) -> bool:
        """True if no activation may be applied."""
        return bool(self.raw_scores) or self.use_activation is False

    def text_options(self) -> TextOptions:
        """Return the options of the tokenizer that the fields describe."""
        return TextOptions(
            truncate=self.truncate is not False, truncation_direction=self.truncation_direction
        )


class RerankRequest(PairOptions):
    """Body of every rerank route; its fields tell whose API it is of."""

    query: str | TextObject = Field(
        description="The text that documents are compared with.", examples=[QUERY]
    )
    documents: Documents | None = Field(
        None,
        description="Texts, or objects with `text`: Cohere, Jina, vLLM, infinity; Weaviate with `property`.",
    )
    texts: Strings | None = Field(None, description="The documents of a request in TEI's form.")
    model_name: str | None = Field(
        None, description="The model, in this server's own form: scores as `CrossEncoder.predict` gives them."
    )
    property: str | None = Field(None, description="Of Weaviate's form, which answers in document order.")
    top_n: int | None = Field(None, ge=0, description="So many of the best; 0 and unset: all.")
    return_documents: bool | None = Field(
        None, description="Answer the documents too; unset: on `/rerank` and `/v1/rerank` only."
    )
    return_text: bool | None = Field(False, description="The same, in TEI's form.")
    prompt_name: str | None = Field(None, description="One of the model's own prompts, put before the query.")
    prompt: str | None = Field(None, max_length=8192, description="Put before the query.")

    def text_options(self) -> TextOptions:
        """Return the options of the tokenizer that the fields describe."""
        return TextOptions(
            self.prompt_name,
            self.prompt,
            truncate=self.truncate is not False,
            truncation_direction=self.truncation_direction,
        )


class PredictRequest(PairOptions):
    """Body of TEI's `/predict`."""

    inputs: list[str] | list[list[str]] = Field(description="A pair of texts, or a list of pairs.")


class ScoreRequest(PairOptions):
    """Body of vLLM's `/score`; the two sides have one of four pairs of names."""

    text_1: str | Strings | None = Field(None, description="One text, or as many as there are in `text_2`.")
    text_2: str | Strings | None = Field(None, description="The second text of each pair.")
    data_1: str | Strings | None = Field(None, description="Another name of `text_1`.")
    data_2: str | Strings | None = Field(None, description="Another name of `text_2`.")
    queries: str | Strings | None = Field(None, description="Another name of `text_1`.")
    documents: str | Strings | None = Field(None, description="Another name of `text_2`.")
    items: str | Strings | None = Field(None, description="Another name of `text_2`.")


class Result(BaseModel):
    """A document's score; `document` is an object with `text`."""

    index: int
    relevance_score: float
    document: dict[Literal["text"], str] | None = None


class Ranking(BaseModel):
    """Answer of a rerank route in the form of Cohere, Jina, vLLM and infinity, best document first.

    `activation` says what was applied to the logits.
    """

    id: str
    object: Literal["rerank"]
    created: int
    model: str
    results: list[Result]
    usage: Usage
    activation: Activation
    meta: dict[str, Any] | None = None


class Rank(BaseModel):
    """A document's score in TEI's form."""

    index: int
    score: float
    text: str | None = None


class DocumentScore(BaseModel):
    """A document's score in Weaviate's form."""

    document: str
    score: float


class WeaviateRanking(BaseModel):
    """Answer in Weaviate's form, in document order."""

    query: str
    property: str | None
    scores: list[DocumentScore]


class Prediction(BaseModel):
    """The score of one of a model's labels."""

    score: float
    label: str


class Score(BaseModel):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class Scores(BaseModel):
    """Answer of `/score`, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage
    activation: Activation
