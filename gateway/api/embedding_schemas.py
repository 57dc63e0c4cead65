"""The bodies of the embedding routes: types, examples, and limits that do not depend on settings."""

from operator import gt
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, model_validator

from gateway.api.base_schemas import RequestBody
from gateway.api.responses import PLAIN, EncodingFormat, OutputFormat
from gateway.api.schemas import IMAGE_EXAMPLE, ModelReference
from gateway.errors import InvalidInput
from gateway.inference.vectors import EmbeddingDtype
from gateway.text.prompts import DEFAULT, Direction, TextOptions
from triton_models.contract.prompts import InputType


def _not_empty(value: str | list[str]) -> str | list[str]:
    if value == []:
        raise ValueError("an empty list; send at least one input")
    return value


# Validation stops at the first wrong element: of half a million, each would get an error of its own.
Strings = Annotated[list[str], Field(fail_fast=True)]
_Inputs = Annotated[str | Strings, AfterValidator(_not_empty)]
_TEXT = Field(description="A text, or a list of them.", examples=[["a diver", "a dog"]])
_IMAGE = Field(
    description="An http(s) URL, a data URI or base64, or a list of them.", examples=[[IMAGE_EXAMPLE]]
)
Texts = Annotated[_Inputs, _TEXT]
Images = Annotated[_Inputs, _IMAGE]

_LARGEST = float(np.finfo(np.float32).max)


def _ordered(ranges: list[list[float]]) -> list[list[float]]:
    least, largest = ranges
    if len(least) != len(largest) or any(map(gt, least, largest)):
        raise ValueError("two lists of equal length are needed, the least values and the largest")
    if any(abs(value) > _LARGEST for row in ranges for value in row):
        raise ValueError("a value is too large for float32")
    return ranges


_Row = Annotated[list[FiniteFloat], Field(fail_fast=True, max_length=1 << 16)]
Ranges = Annotated[list[_Row], Field(fail_fast=True, min_length=2, max_length=2), AfterValidator(_ordered)]


Dimensions = Annotated[
    int | None,
    Field(ge=1, description="Keep so many dimensions, the first ones, and scale to unit length again."),
]


class VectorFields(RequestBody):
    """Fields that choose the output format of vectors."""

    normalize: bool | None = Field(
        False, description="Scale every vector to unit length; false: as the model gives it."
    )
    dimensions: Dimensions = None
    encoding_format: EncodingFormat | None = Field(
        "float", description="Of the vectors in JSON: numbers, or base64 of their little-endian bytes."
    )
    embedding_dtype: EmbeddingDtype | None = Field(
        "float32",
        description="Of the numbers; `binary` and `ubinary` are one bit a dimension, 8 to an int8 or uint8.",
    )
    ranges: Ranges | None = Field(
        None,
        description="Of int8 and uint8: the least and the largest value of each dimension. Unset, they are "
        "taken from the inputs of this request, two or more, and given back with them.",
    )

    def form(self) -> OutputFormat:
        """Return the output format that the fields describe.

        Raises:
            InvalidInput: `ranges` is given for a type other than int8 and uint8.
        """
        if self.ranges is not None and self.embedding_dtype not in ("int8", "uint8"):
            raise InvalidInput("ranges: only for embedding_dtype int8 and uint8")
        if self.dimensions is None and self.embedding_dtype == "float32" and self.encoding_format == "float":
            return PLAIN
        ranges = None if self.ranges is None else np.array(self.ranges, dtype=np.float32)
        return OutputFormat(
            self.dimensions, self.embedding_dtype or "float32", self.encoding_format or "float", ranges
        )


class TimeoutField(RequestBody):
    """Field for the time that the caller waits."""

    timeout_ms: int | None = Field(
        None,
        ge=1,
        strict=True,
        description="Milliseconds after which 504 is answered and what has not begun is dropped; "
        "at most, and unset, the server's `REQUEST_TIMEOUT`.",
        examples=[2000],
    )


class TextFields(RequestBody):
    """Fields for the preparation of texts: prompts and truncation."""

    prompt_name: str | None = Field(
        None, description="One of the model's own prompts, put before each text.", examples=["query"]
    )
    prompt: str | None = Field(
        None,
        max_length=8192,
        description='Put before each text; goes before `prompt_name`, and `""` before a default prompt.',
        examples=["query: "],
    )
    input_type: InputType | None = Field(
        None,
        description="The model's prompt for it, unless one of the two above is given: `query`, or the first "
        "that it has of `document`, `passage` and `corpus`; and the model's limit of tokens for it, if any.",
    )
    truncate: bool | None = Field(
        True, description="Shorten a text longer than the model takes; false: refuse it with 422."
    )
    truncation_direction: Direction | None = Field(
        None, description="The end that is shortened; unset: as the model does it, nearly always `right`."
    )

    def text_options(self) -> TextOptions:
        """Return the options of the tokenizer that the fields describe."""
        if (
            self.truncate
            and self.prompt is None
            and self.prompt_name is None
            and self.input_type is None
            and self.truncation_direction is None
        ):
            return DEFAULT
        return TextOptions(
            self.prompt_name,
            self.prompt,
            self.input_type,
            self.truncate is not False,
            self.truncation_direction,
        )


class InferRequest(ModelReference, VectorFields, TextFields, TimeoutField):
    """Body of `POST /infer`: texts, images or both."""

    text: Annotated[_Inputs | None, _TEXT] = None
    image: Annotated[_Inputs | None, _IMAGE] = None

    @model_validator(mode="after")
    def _some_input(self) -> Self:
        if self.text is None and self.image is None:
            raise ValueError("give text, image or both")
        return self


class InferTextRequest(ModelReference, VectorFields, TextFields, TimeoutField):
    """Body of `POST /infer_text`."""

    text: Texts


class InferImageRequest(ModelReference, VectorFields, TimeoutField):
    """Body of `POST /infer_image`."""

    image: Images


Embeddings = list[list[float]] | list[str]
"""One vector for each input, in the order of the inputs; strings if `encoding_format` is base64."""

TakenRanges = Annotated[
    list[list[float]] | None,
    Field(
        description="Where int8 or uint8 took them from the inputs; send them with what is to be compared."
    ),
]


class InferResponse(BaseModel):
    """Answer of `POST /infer`; the embeddings of a missing input are null."""

    text_embeddings: Embeddings | None
    image_embeddings: Embeddings | None
    processingTimeMs: float  # noqa: N815 - the contract's spelling
    ranges: TakenRanges = None


class EmbeddingResponse(BaseModel):
    """Answer of `POST /infer_text` and `POST /infer_image`."""

    embedding: Embeddings
    processingTimeMs: float  # noqa: N815 - the contract's spelling
    ranges: TakenRanges = None
